"""The adapter: `[event_sinks.jsonl]` of the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from intermodal_core.plugin import Context, Plugin

from intermodal_jsonl.sink import JsonLines

__all__ = ["Config", "plugin"]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of `[event_sinks.jsonl]`."""

    path: Annotated[str, msgspec.Meta(description="The file; empty: events.jsonl in the instance's directory.")] = ""
    filters: Annotated[tuple[str, ...], msgspec.Meta(description="Which events; of several any may match.")] = ()
    size: Annotated[int, msgspec.Meta(ge=4096, description="Bytes after which the file is rotated.")] = 64 << 20
    files: Annotated[int, msgspec.Meta(ge=1, description="Files that are kept in all.")] = 5


def _make(context: Context[Config]) -> JsonLines:
    config = context.config
    path = Path(config.path) if config.path else context.root_dir() / "events.jsonl"
    return JsonLines(path, config.filters, config.size, config.files)


plugin = Plugin(factory=_make, config=Config)
