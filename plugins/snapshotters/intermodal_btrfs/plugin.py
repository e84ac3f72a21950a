"""The entry point `btrfs` of `intermodal.snapshotters`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from intermodal_core.errors import PluginSkipped
from intermodal_core.plugin import Context, Plugin

__all__ = ["Config", "plugin"]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the snapshotter."""

    sync: Annotated[
        bool, msgspec.Meta(description="Wait at a commit until the tree is on disk, so that it survives a power cut")
    ] = True
    sync_remove: Annotated[
        bool, msgspec.Meta(description="Delete a removed snapshot's subvolume at once, not in the background")
    ] = False


def _make(context: Context[Config]) -> object:
    from intermodal_snapshots.mounts import filesystem_of

    from intermodal_btrfs.snapshotter import BtrfsSnapshotter

    root = context.root_dir()
    filesystem = filesystem_of(root)
    if filesystem != "btrfs":
        raise PluginSkipped(
            f"{root} is on {filesystem}, not on btrfs", "put the daemon's root on btrfs, or choose another snapshotter"
        )
    config = context.config
    return BtrfsSnapshotter(root, sync=config.sync, sync_remove=config.sync_remove)


plugin = Plugin(factory=_make, config=Config)
