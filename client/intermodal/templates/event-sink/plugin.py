"""The adapter: `[event_sinks.sample]` of the config."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from intermodal_core.plugin import Context, Plugin

from intermodal_sample.sink import SampleSink

__all__ = ["Config", "plugin"]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of `[event_sinks.sample]`."""

    path: Annotated[str, msgspec.Meta(description="The file; empty: events.txt in the instance's directory.")] = ""
    filters: Annotated[tuple[str, ...], msgspec.Meta(description="Which events; of several any may match.")] = ()


def _make(context: Context[Config]) -> SampleSink:
    path = Path(context.config.path) if context.config.path else context.root_dir() / "events.txt"
    return SampleSink(path, context.config.filters)


plugin = Plugin(factory=_make, config=Config, contract=1)
