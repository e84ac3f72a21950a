"""Bundles for the tests of runtimes: a busybox root filesystem, a small spec, and a cgroup parent of each test's own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

__all__ = ["BUSYBOX", "MakeBundle", "bundles", "busybox_rootfs", "cgroup_parent_of_its_own"]

BUSYBOX: Final = Path("/bin/busybox")
_CONTROLLERS = ("cpu", "cpuacct", "memory", "pids", "blkio", "devices", "freezer", "cpuset", "unified", "systemd")

#: `make_bundle(id, *args, terminal=False, **changes)`: a directory of that name with a `config.json` of which `changes` are
#: top-level members. The container has a busybox in its PATH and its `rootfs` read-only, and a cgroup of its own.
MakeBundle = Callable[..., Path]


def busybox_rootfs(root: Path) -> Path:
    """Fill a directory with busybox and its applets; containers share it read-only. Skips the test where there is no busybox."""
    if not BUSYBOX.exists():
        pytest.skip(f"{BUSYBOX} is not there: apt-get install busybox-static")
    for name in ("bin", "dev", "proc", "sys", "tmp", "etc"):
        (root / name).mkdir()
    shutil.copy2(BUSYBOX, root / "bin/busybox")
    applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for applet in applets:
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    return root


@contextmanager
def cgroup_parent_of_its_own() -> Iterator[str]:
    """A cgroup parent of this process's own; afterwards nothing may be left below it."""
    parent = f"/imtest-{os.getpid()}"
    yield parent
    deadline = time.monotonic() + 10  # a runtime's delete command may go on behind the answer
    while (left := _cgroups_below(parent)) and time.monotonic() < deadline:
        time.sleep(0.01)
    for directory in left:
        directory.rmdir()
    for controller in _CONTROLLERS:
        with contextlib.suppress(FileNotFoundError):
            Path("/sys/fs/cgroup", controller, parent[1:]).rmdir()
    assert not left, f"cgroups left behind: {left}"


def _cgroups_below(parent: str) -> list[Path]:
    tops = [Path("/sys/fs/cgroup", controller, parent[1:]) for controller in _CONTROLLERS]
    return [child for top in tops for child in sorted(top.rglob("*"), reverse=True) if child.is_dir()]


@contextmanager
def bundles(directory: Path, cgroup_parent: str) -> Iterator[MakeBundle]:
    """Makes bundles below a directory; their rootfs is a read-only mount to be made. Afterwards nothing may be mounted there."""
    made: list[Path] = []

    def make(container: str, *args: str, terminal: bool = False, pid_namespace: bool = True, **changes: Any) -> Path:
        bundle = directory / container
        bundle.mkdir()
        (bundle / "rootfs").mkdir()
        spec: dict[str, Any] = {
            "ociVersion": "1.0.2",
            "process": {
                "terminal": terminal,
                "user": {"uid": 0, "gid": 0},
                "args": list(args),
                "env": ["PATH=/bin"],
                "cwd": "/",
            },
            "root": {"path": "rootfs", "readonly": True},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance"]},
                {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"},
            ],
            "linux": {
                "cgroupsPath": f"{cgroup_parent}/{container}",
                "namespaces": [{"type": kind} for kind in ("mount", "ipc", "uts", *(["pid"] if pid_namespace else []))],
            },
        }
        linux = changes.pop("linux", {})
        spec["linux"].update(linux)
        spec["process"].update(changes.pop("process", {}))
        spec.update(changes)
        (bundle / "config.json").write_text(json.dumps(spec))
        made.append(bundle)
        return bundle

    yield make
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    left = [point for point in mounted if any(point.startswith(f"{bundle}/") for bundle in made)]
    for point in left:
        subprocess.run(["umount", "-l", point], check=False)
    assert not left, f"mounts left behind: {left}"
