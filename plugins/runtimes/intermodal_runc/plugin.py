"""The entry point `runc` of `intermodal.runtimes`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from intermodal_core.plugin import Context, Plugin

__all__ = ["Config", "plugin"]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the runtime."""

    binary: Annotated[
        str, msgspec.Meta(description="The runtime: an absolute path, or a name that is sought on the daemon's PATH")
    ] = "runc"
    root: Annotated[
        str,
        msgspec.Meta(description="Where the runtime keeps its own state, below it a directory a namespace; '' is ours"),
    ] = ""
    systemd_cgroup: Annotated[
        bool, msgspec.Meta(description="Have systemd make the cgroups; a spec's cgroupsPath is then slice:prefix:name")
    ] = False
    no_pivot: Annotated[
        bool, msgspec.Meta(description="Use chroot where pivot_root cannot work, as on a root that lies in a ramdisk")
    ] = False
    no_new_keyring: Annotated[
        bool, msgspec.Meta(description="Leave containers the daemon's session keyring, not one of their own")
    ] = False
    criu: Annotated[
        str, msgspec.Meta(description="CRIU, which takes checkpoints: an absolute path; '' is the one on PATH, if any")
    ] = ""
    sharing: Annotated[
        Literal["container", "pod", "namespace"],
        msgspec.Meta(
            description="Which containers have a shim in common: none, those of a pod, or all of a namespace. The more there are,"
            " the less memory each costs, and the more of them end with a shim that is killed"
        ),
    ] = "container"


def _make(context: Context[Config]) -> object:
    from intermodal_runc.runtime import make_runtime

    return make_runtime(context)


plugin = Plugin(
    factory=_make,
    config=Config,
    forked=("intermodal_shim.shim",),
    capabilities=("exec", "pause", "update", "stats", "checkpoint", "terminal", "attach", "processes", "pids"),
)
