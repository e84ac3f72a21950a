"""The adapter: `[metadata.sqlite]` of the configuration."""

from __future__ import annotations

from typing import Annotated

import msgspec
from intermodal_core.plugin import Context, Plugin

from intermodal_sqlite.store import Store

__all__ = ["Config", "plugin"]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of `[metadata.sqlite]`."""

    path: Annotated[
        str, msgspec.Meta(description="The database file; empty: metadata.db in the instance's own directory.")
    ] = ""
    busy_timeout: Annotated[
        float, msgspec.Meta(ge=0, description="Seconds to wait for another process that holds the database.")
    ] = 5.0


def _make(context: Context[Config]) -> Store:
    path = context.config.path or context.root_dir() / "metadata.db"
    return Store(path, busy_timeout=context.config.busy_timeout, log=context.log)


plugin = Plugin(factory=_make, config=Config)
