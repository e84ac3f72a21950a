"""Facts of the machine that figures are worth nothing without, and the places that daemons can be put on."""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
from pathlib import Path

from intermodal_snapshots.mounts import filesystem_of


def facts() -> dict[str, str]:
    """Kernel, processors, memory, versions of what takes part."""
    return {
        "kernel": platform.release(),
        "processor": f"{len(os.sched_getaffinity(0))} x {_processor()}",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / (1 << 30):.0f} GiB",
        "cgroups": "v2" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "v1",
        "python": platform.python_version(),
        "runc": version("runc", "--version"),
        "ctr": version("ctr", "--version"),
    }


def version(*command: str) -> str:
    """The first number-like word that a command says of itself; "missing" where it cannot be run."""
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout
    except OSError:
        return "missing"
    words = [word.lstrip("v") for word in said.split()]
    return next((word for word in words if word[:1].isdigit() and "." in word), "unknown")


def places() -> list[Path]:
    """A directory in memory and one on a disk, as far as there are such."""
    found = []
    memory = Path("/dev/shm")
    if memory.is_dir() and filesystem_of(memory) == "tmpfs":
        found.append(memory)
    for directory in (Path("/var/tmp"), Path(tempfile.gettempdir())):
        if directory.is_dir() and filesystem_of(directory) not in ("tmpfs", "overlay"):
            found.append(directory)
            break
    return found


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
