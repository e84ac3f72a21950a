"""A disk small enough to be filled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from intermodal_core.syscalls import MNT_DETACH, mount, umount


@contextmanager
def small_disk(path: Path, size: int) -> Iterator[Path]:
    """A tmpfs of `size` bytes at `path` (made), gone at the end. Needs root."""
    path.mkdir(parents=True)
    mount("tmpfs", str(path), "tmpfs", 0, f"size={size}")
    try:
        yield path
    finally:
        umount(str(path), MNT_DETACH)
        path.rmdir()


def fill(directory: Path) -> Path:
    """Write zeros to a new file in `directory` until there is no more room; returns the file, to be deleted."""
    path = directory / "filler"
    with path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
    return path
