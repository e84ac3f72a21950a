"""Snapshots as whole copies: works on every filesystem, and takes no space for what is shared where there are reflinks.

ROOT/snapshots/ID/fs       the complete tree
"""

from __future__ import annotations

from pathlib import Path

from intermodal_core.contracts.common import Mount, Usage
from intermodal_core.contracts.snapshotters import Kind
from intermodal_snapshots.copying import can_reflink, copy_tree
from intermodal_snapshots.directory import DirectorySnapshotter
from intermodal_snapshots.trees import disk_usage

__all__ = ["NativeSnapshotter"]


class NativeSnapshotter(DirectorySnapshotter):
    """Copies below `root`; `reflink` tells whether they share blocks with their parents.

    Raises what `DirectorySnapshotter` raises.
    """

    def __init__(self, root: Path, *, sync: bool = True, sync_remove: bool = False) -> None:
        super().__init__(root, sync=sync, sync_remove=sync_remove)
        self.reflink = can_reflink(root)

    def make(self, directory: Path, kind: Kind, parents: list[Path]) -> None:
        """A copy of the parent; a view is of the parent itself, which cannot change or go before the view does."""
        if not parents:
            (directory / "fs").mkdir()
            (directory / "fs").chmod(0o755)
        elif kind != "view":
            copy_tree(parents[0] / "fs", directory / "fs")

    def mounts_of(self, directory: Path, kind: Kind, parents: list[Path]) -> list[Mount]:
        """A bind of the tree."""
        if kind != "view":
            return [Mount("bind", str(directory / "fs"), ("rw", "rbind"))]
        tree = parents[0] if parents else directory
        return [Mount("bind", str(tree / "fs"), ("ro", "rbind"))]

    def usage_of(self, directory: Path) -> Usage:
        """Of the whole tree (shared blocks are counted in each); a view of a parent has none."""
        try:
            return disk_usage(directory / "fs")
        except FileNotFoundError:
            return Usage(0, 0)
