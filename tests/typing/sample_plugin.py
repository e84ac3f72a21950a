"""What the author of a plugin writes: a snapshotter over the library's base, and a network.

It knows the contracts and `intermodal_snapshots`, of the distribution intermodal-core, and nothing else of ours.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, assert_type

import msgspec
from intermodal_core.contracts.common import Mount, Usage
from intermodal_core.contracts.networks import Attachment, AttachResult, Network
from intermodal_core.contracts.snapshotters import Kind, SnapshotInfo, Snapshotter
from intermodal_core.errors import FailedPrecondition, PluginSkipped
from intermodal_core.plugin import Context, NoConfig, Plugin
from intermodal_snapshots.copying import copy_tree
from intermodal_snapshots.directory import DirectorySnapshotter

__all__ = ["CopySnapshotter", "LedgerNetwork", "network", "snapshotter"]


class CopySnapshotter(DirectorySnapshotter):
    """Each snapshot is a copy of its parent."""

    def make(self, directory: Path, kind: Kind, parents: list[Path]) -> None:
        """Fill the new directory."""
        if parents:
            copy_tree(parents[0] / "tree", directory / "tree")
        else:
            (directory / "tree").mkdir(mode=0o755)

    def mounts_of(self, directory: Path, kind: Kind, parents: list[Path]) -> list[Mount]:
        """A bind of it."""
        return [Mount("bind", str(directory / "tree"), ("ro" if kind == "view" else "rw", "rbind"))]


class CopyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of `[snapshotters.copy]`."""

    sync: Annotated[bool, msgspec.Meta(description="Wait until a commit is on disk.")] = True


def _make_snapshotter(context: Context[CopyConfig]) -> Snapshotter:
    assert_type(context.config, CopyConfig)
    root = context.root_dir()
    if root.is_symlink():
        raise PluginSkipped(f"{root} is a link", "make it a directory")
    return CopySnapshotter(root, sync=context.config.sync)


class LedgerNetwork:
    """A namespace of the container's own that leads nowhere, and a file that says who has one."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def attach(self, attachment: Attachment) -> AttachResult:
        """Write it down."""
        self._line(attachment).write_text(attachment.container)
        return AttachResult("new", result=json.dumps({"container": attachment.container}).encode())

    def detach(self, attachment: Attachment, result: bytes) -> None:
        """Strike it out."""
        self._line(attachment).unlink(missing_ok=True)

    def check(self, attachment: Attachment, result: bytes) -> None:
        """Look it up. Raises FailedPrecondition."""
        if not self._line(attachment).exists():
            raise FailedPrecondition(f"{attachment.container} is not attached: start it again")

    def gc(self, live: tuple[Attachment, ...]) -> None:
        """Strike out whoever is gone."""
        names = {self._line(attachment).name for attachment in live}
        for path in self._directory.iterdir():
            if path.name not in names:
                path.unlink()

    def _line(self, attachment: Attachment) -> Path:
        return self._directory / attachment.id.replace("/", ".")


def _make_network(context: Context[NoConfig]) -> Network:
    return LedgerNetwork(context.root_dir())


snapshotter = Plugin(factory=_make_snapshotter, config=CopyConfig)
network = Plugin(factory=_make_network)


def inferred(made: CopySnapshotter, net: LedgerNetwork) -> None:
    """For the type checker alone."""
    assert_type(made.prepare("key"), list[Mount])
    assert_type(made.stat("key"), SnapshotInfo)
    assert_type(made.usage("key"), Usage)
    assert_type(made.stat("key").kind, Kind)
    _: tuple[Snapshotter, Network] = (made, net)


def refused(made: CopySnapshotter, context: Context[CopyConfig]) -> None:
    """For the type checker alone: each line is an error."""
    made.prepare(1)  # type: ignore[arg-type]
    made.mount("key")  # type: ignore[attr-defined]
    context.config.sink  # type: ignore[attr-defined]  # noqa: B018
    context.name = "other"  # type: ignore[misc]
    Mount("bind")  # type: ignore[call-arg]
    Plugin(factory=CopySnapshotter, config=CopyConfig)  # type: ignore[arg-type]
    _: Network = made  # type: ignore[assignment]
