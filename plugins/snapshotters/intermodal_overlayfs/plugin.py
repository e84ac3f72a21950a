"""The entry point `overlayfs` of `intermodal.snapshotters`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from intermodal_core.errors import PluginSkipped
from intermodal_core.plugin import Context, Plugin

__all__ = ["Config", "plugin"]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the snapshotter."""

    mount_options: Annotated[
        tuple[str, ...],
        msgspec.Meta(description="Options added to each overlay mount, such as metacopy=off or volatile"),
    ] = ()
    sync: Annotated[
        bool, msgspec.Meta(description="Wait at a commit until the layer is on disk, so that it survives a power cut")
    ] = True
    sync_remove: Annotated[
        bool, msgspec.Meta(description="Delete a removed snapshot's files at once, not in the background")
    ] = False


def _make(context: Context[Config]) -> object:
    from intermodal_snapshots.mounts import filesystem_of

    from intermodal_overlayfs.snapshotter import OverlaySnapshotter, probe

    root = context.root_dir()
    if problem := probe(root):
        raise PluginSkipped(
            f"overlay does not work on a filesystem of type {filesystem_of(root)} at {root}: {problem}",
            "Put the daemon's root on ext4, xfs or btrfs, run it as root, or choose another snapshotter (native)",
        )
    config = context.config
    return OverlaySnapshotter(root, options=config.mount_options, sync=config.sync, sync_remove=config.sync_remove)


plugin = Plugin(factory=_make, config=Config, capabilities=("rebase", "remap-ids"))
