"""The adapter: `[services.sample]` of the config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from intermodal_core.plugin import Context, Plugin

from intermodal_sample.service import SampleService

__all__ = ["Config", "plugin"]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of `[services.sample]`."""

    address: Annotated[
        str, msgspec.Meta(description="The socket; empty: the daemon's address with .sample behind it.")
    ] = ""


def _make(context: Context[Config]) -> SampleService:
    def report() -> Mapping[str, Any]:
        return {record.id: record.state for record in context.registry.records()}

    socket = Path(context.config.address or f"{context.address}.sample")
    context.exports["address"] = str(socket)
    return SampleService(socket, report)


plugin = Plugin(factory=_make, config=Config, contract=1)
