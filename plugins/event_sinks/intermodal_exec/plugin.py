"""The adapter: `[event_sinks.exec]` of the configuration."""

from __future__ import annotations

from typing import Annotated

import msgspec
from intermodal_core.errors import PluginSkipped
from intermodal_core.plugin import Context, Plugin

from intermodal_exec.sink import Command

__all__ = ["Config", "plugin"]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of `[event_sinks.exec]`."""

    command: Annotated[tuple[str, ...], msgspec.Meta(description="Program and arguments; no shell is involved.")] = ()
    filters: Annotated[tuple[str, ...], msgspec.Meta(description="Which events; of several any may match.")] = ()
    timeout: Annotated[float, msgspec.Meta(gt=0, description="Seconds that it may take for a batch.")] = 30.0
    environment: Annotated[dict[str, str], msgspec.Meta(description="Variables that the command gets.")] = {}


def _make(context: Context[Config]) -> Command:
    config = context.config
    if not config.command:
        raise PluginSkipped("no command is named", f"set command = [...] in [event_sinks.{context.name}]")
    return Command(context.spawner, config.command, config.filters, config.timeout, config.environment)


plugin = Plugin(factory=_make, config=Config)
