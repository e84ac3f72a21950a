"""A snapshotter that copies: each snapshot is a directory of its own, made as a copy of its parent."""

from __future__ import annotations

from pathlib import Path

from intermodal_core.contracts.common import Mount
from intermodal_core.contracts.snapshotters import Kind
from intermodal_snapshots.copying import copy_tree
from intermodal_snapshots.directory import DirectorySnapshotter

__all__ = ["SampleSnapshotter"]


class SampleSnapshotter(DirectorySnapshotter):
    """The base keeps keys, parents and labels, survives crashes and deletes; what is left is the filesystem part."""

    def make(self, directory: Path, kind: Kind, parents: list[Path]) -> None:
        """Fill the new `directory`; `parents` are the directories of its ancestors, the nearest first."""
        if parents:
            copy_tree(parents[0] / "fs", directory / "fs")
        else:
            (directory / "fs").mkdir(mode=0o755)

    def mounts_of(self, directory: Path, kind: Kind, parents: list[Path]) -> list[Mount]:
        """What a caller mounts to see it."""
        return [Mount("bind", str(directory / "fs"), ("ro" if kind == "view" else "rw", "rbind"))]
