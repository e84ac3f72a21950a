"""A btrfs of a test's own, in a file on a loop device."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["btrfs"]


@contextmanager
def btrfs(place: Path, megabytes: int = 512, *, quotas: bool = False) -> Iterator[Path]:
    """The mount point, below `place`; gone, with its loop device, at the end."""
    image, point = place / "btrfs.img", place / "btrfs"
    with open(image, "wb") as file:
        file.truncate(megabytes << 20)
    subprocess.run(["mkfs.btrfs", "--quiet", str(image)], check=True, timeout=60)
    point.mkdir()
    # Of an autoclear device nothing is left after the unmount, whatever happens to us.
    subprocess.run(["mount", "-o", "loop", str(image), str(point)], check=True, timeout=60)
    try:
        if quotas:
            subprocess.run(["btrfs", "quota", "enable", str(point)], check=True, timeout=60)
        yield point
    finally:
        subprocess.run(["umount", str(point)], check=True, timeout=60)
        image.unlink()
