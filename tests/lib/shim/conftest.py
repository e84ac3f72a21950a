"""The fixtures of `tests.harness.shims`, for all tests of the shim."""

from tests.harness.shims import cgroup_parent, make_bundle, make_process, rootfs, spawner, with_daemon

__all__ = ["cgroup_parent", "make_bundle", "make_process", "rootfs", "spawner", "with_daemon"]
