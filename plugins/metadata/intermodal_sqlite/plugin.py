"""The adapter: `[metadata.sqlite]` of the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from intermodal_core.plugin import Context, Plugin

from intermodal_sqlite.copies import Copies
from intermodal_sqlite.store import Store

__all__ = ["Config", "plugin"]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of `[metadata.sqlite]`."""

    path: Annotated[
        str, msgspec.Meta(description="The database file; empty: metadata.db in the instance's own directory.")
    ] = ""
    copies: Annotated[
        int,
        msgspec.Meta(ge=0, description="Whole copies that are kept, made daily and at stop after changes; 0: none."),
    ] = 3
    busy_timeout: Annotated[
        float, msgspec.Meta(ge=0, description="Seconds to wait for another process that holds the database.")
    ] = 5.0


def _make(context: Context[Config]) -> Store:
    directory = context.root_dir()
    path = Path(context.config.path or directory / "metadata.db")
    copies = Copies(path, directory, context.config.copies, context.log)
    return Store(path, busy_timeout=context.config.busy_timeout, log=context.log, copies=copies)


plugin = Plugin(factory=_make, config=Config)
