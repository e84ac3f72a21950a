"""The adapter: `managers.images`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from intermodal_core.plugin import Context, Plugin

from intermodal_images.manager import ImagesManager

__all__ = ["Config", "plugin"]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of `[managers.images]`."""

    downloads: Annotated[
        int, msgspec.Meta(ge=1, le=64, description="How many blobs are fetched, or sent, at the same time")
    ] = 4
    ranges: Annotated[
        int, msgspec.Meta(ge=1, le=32, description="In how many parts at once a large blob is fetched; 1: in one")
    ] = 4
    ranged_from: Annotated[
        int, msgspec.Meta(ge=1, description="Bytes from which on a blob is large, where its host serves ranges")
    ] = 64 << 20
    verify_at_run: Annotated[
        bool,
        msgspec.Meta(
            description="Whether images are verified each time `imod` makes a container, too, not only pulled"
        ),
    ] = False


def _make(context: Context[Config]) -> ImagesManager:
    config = context.config
    store = context.get("managers", "store")
    return ImagesManager(
        store, context.registry, config.downloads, config.ranges, config.ranged_from, config.verify_at_run
    )


plugin = Plugin(factory=_make, config=Config, requires=("managers.store",))
