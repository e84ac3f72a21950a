"""Snapshots as btrfs subvolumes: made in an instant, and sharing all that they did not change.

    ROOT/snapshots/ID/fs       a subvolume with the complete tree

Where quotas are on, an xattr of ID/ holds the bytes that were its own when it was committed.
What was removed is deleted by btrfs itself, in the background.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from intermodal_core.contracts.common import Mount, Usage
from intermodal_core.contracts.snapshotters import Kind
from intermodal_snapshots.directory import DirectorySnapshotter

from intermodal_btrfs.ioctls import (
    changed_inodes,
    create_subvolume,
    delete_subvolume,
    exclusive_bytes,
    is_subvolume,
    snapshot,
)

__all__ = ["BtrfsSnapshotter"]

_EXCLUSIVE: Final = "user.intermodal.exclusive"


class BtrfsSnapshotter(DirectorySnapshotter):
    """Subvolumes below `root`, which is on btrfs.

    Raises what `DirectorySnapshotter` raises.
    """

    def make(self, directory: Path, kind: Kind, parents: list[Path]) -> None:
        """A snapshot of the parent; a view is of the parent itself, which cannot change or go before the view does."""
        tree = directory / "fs"
        if not parents:
            create_subvolume(tree)
            tree.chmod(0o755)
        elif kind != "view":
            snapshot(parents[0] / "fs", tree)

    def mounts_of(self, directory: Path, kind: Kind, parents: list[Path]) -> list[Mount]:
        """A bind of the tree."""
        if kind != "view":
            return [Mount("bind", str(directory / "fs"), ("rw", "rbind"))]
        tree = parents[0] if parents else directory
        return [Mount("bind", str(tree / "fs"), ("ro", "rbind"))]

    def seal(self, directory: Path) -> None:
        """Make it durable; then, as nothing shares with it yet, what quotas count is what it adds to its parent."""
        super().seal(directory)
        own = exclusive_bytes(directory / "fs") if self.sync else None  # else the count is an old one
        if own is not None:
            os.setxattr(directory, _EXCLUSIVE, str(own).encode())

    def usage_of(self, directory: Path) -> Usage:
        """What differs from the parent, as of btrfs's last commit: by quota group where there is one, else all of each changed file."""
        try:
            sizes = list(changed_inodes(directory / "fs"))
        except FileNotFoundError:
            return Usage(0, 0)  # a view of a parent
        try:
            size = int(os.getxattr(directory, _EXCLUSIVE))
        except OSError as error:
            if error.errno != errno.ENODATA:
                raise
            size = sum(sizes)
        return Usage(size, len(sizes))

    def delete(self, directory: Path) -> None:
        """Delete the subvolume, with those that a container made in it."""
        tree = directory / "fs"
        try:
            _delete(tree)
        except FileNotFoundError:
            pass
        super().delete(directory)


def _delete(tree: Path) -> None:
    try:
        delete_subvolume(tree)
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        for inner in _subvolumes(tree):
            delete_subvolume(inner)
        delete_subvolume(tree)


def _subvolumes(tree: Path) -> list[Path]:
    """Those below `tree`, the innermost first."""
    found = []
    for path, directories, _ in os.walk(tree, topdown=False):
        for name in directories:
            inner = Path(path, name)
            if not inner.is_symlink() and is_subvolume(inner.lstat()):
                found.append(inner)
    return found
