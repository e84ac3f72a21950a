"""The snapshotter: a plain library, usable without a daemon."""

from __future__ import annotations

from pathlib import Path

from intermodal_core.contracts.common import Mount
from intermodal_core.contracts.snapshotters import Kind
from intermodal_core.errors import ResourceExhausted
from intermodal_snapshots.copying import copy_tree
from intermodal_snapshots.directory import DirectorySnapshotter

__all__ = ["ScratchSnapshotter"]


class ScratchSnapshotter(DirectorySnapshotter):
    """Each snapshot is a copy of its parent; none of more than `limit` bytes on disk is committed (0: any)."""

    def __init__(self, root: Path, limit: int = 0, *, sync_remove: bool = False) -> None:
        super().__init__(root, sync_remove=sync_remove)
        self.limit = limit

    def make(self, directory: Path, kind: Kind, parents: list[Path]) -> None:
        """Fill the new directory."""
        if parents:
            copy_tree(parents[0] / "fs", directory / "fs")
        else:
            (directory / "fs").mkdir(mode=0o755)

    def mounts_of(self, directory: Path, kind: Kind, parents: list[Path]) -> list[Mount]:
        """A bind of it."""
        return [Mount("bind", str(directory / "fs"), ("ro" if kind == "view" else "rw", "rbind"))]

    def seal(self, directory: Path) -> None:
        """Before a commit: refuse what is too large."""
        size = self.usage_of(directory).size
        if self.limit and size > self.limit:
            raise ResourceExhausted(
                f"the snapshot has {size} bytes, and the limit is {self.limit}: raise it or write less"
            )
        super().seal(directory)
