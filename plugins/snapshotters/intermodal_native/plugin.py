"""The entry point `native` of `intermodal.snapshotters`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from intermodal_core.plugin import Context, Plugin

__all__ = ["Config", "plugin"]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the snapshotter."""

    sync: Annotated[
        bool, msgspec.Meta(description="Wait at a commit until the tree is on disk, so that it survives a power cut")
    ] = True
    sync_remove: Annotated[
        bool, msgspec.Meta(description="Delete a removed snapshot's files at once, not in the background")
    ] = False


def _make(context: Context[Config]) -> object:
    from intermodal_native.snapshotter import NativeSnapshotter

    config = context.config
    snapshotter = NativeSnapshotter(context.root_dir(), sync=config.sync, sync_remove=config.sync_remove)
    how = "share their blocks (reflinks)" if snapshotter.reflink else "are full copies: this filesystem has no reflinks"
    context.log.info("snapshots in %s %s", snapshotter.root, how)
    return snapshotter


plugin = Plugin(factory=_make, config=Config)
