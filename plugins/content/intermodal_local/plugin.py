"""The adapter: `[content.local]` of the configuration."""

from __future__ import annotations

from typing import Annotated

import msgspec
from intermodal_core.plugin import Context, Plugin

from intermodal_local.store import Store

__all__ = ["Config", "plugin"]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of `[content.local]`."""

    path: Annotated[
        str, msgspec.Meta(description="The directory of the store; empty: the instance's own directory.")
    ] = ""


def _make(context: Context[Config]) -> Store:
    return Store(context.config.path or context.root_dir())


plugin = Plugin(factory=_make, config=Config)
