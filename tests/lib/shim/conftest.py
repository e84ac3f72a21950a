"""Bundles for runc: a busybox root filesystem and a small spec, with a cgroup parent of each test's own."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

BUSYBOX = Path("/bin/busybox")
CONTROLLERS = ("cpu", "cpuacct", "memory", "pids", "blkio", "devices", "freezer", "cpuset", "unified", "systemd")

MakeBundle = Callable[..., Path]


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with busybox and its applets; shared, so containers get it read-only."""
    root = tmp_path_factory.mktemp("rootfs")
    for name in ("bin", "dev", "proc", "sys", "tmp", "etc"):
        (root / name).mkdir()
    shutil.copy2(BUSYBOX, root / "bin/busybox")
    applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for applet in applets:
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    return root


@pytest.fixture
def cgroup_parent() -> Iterator[str]:
    """A cgroup parent of this test's own; afterwards nothing is left below it."""
    parent = f"/imtest-{os.getpid()}"
    yield parent
    left = []
    for controller in CONTROLLERS:
        directory = Path("/sys/fs/cgroup", controller, parent[1:])
        if not directory.is_dir():
            continue
        for child in sorted(directory.rglob("*"), reverse=True):
            if child.is_dir():
                left.append(str(child))
                child.rmdir()
        directory.rmdir()
    assert not left, f"cgroups left behind: {left}"


@pytest.fixture
def make_bundle(tmp_path: Path, rootfs: Path, cgroup_parent: str) -> Iterator[MakeBundle]:
    """make_bundle(id, *args, **changes to the spec) -> the bundle's directory, its rootfs a read-only mount to be made."""
    bundles: list[Path] = []

    def make(container: str, *args: str, terminal: bool = False, pid_namespace: bool = True, **changes: Any) -> Path:
        bundle = tmp_path / container
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
        bundles.append(bundle)
        return bundle

    yield make
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    left = [point for point in mounted if any(point.startswith(f"{bundle}/") for bundle in bundles)]
    for point in left:
        subprocess.run(["umount", "-l", point], check=False)
    assert not left, f"mounts left behind: {left}"
