"""The adapter: `services.metrics`, off unless its section has an address."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from intermodal_core.errors import PluginSkipped
from intermodal_core.plugin import Context, Plugin

__all__ = ["Config", "plugin"]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of `[services.metrics]`."""

    address: Annotated[
        str,
        msgspec.Meta(
            description="Where numbers are served, in Prometheus' text format: HOST:PORT, or the path of a socket; empty: nowhere.",
            pattern=r"^(|/.+|.+:[0-9]+)$",
        ),
    ] = ""


def _make(context: Context[Config]) -> Any:
    if not context.config.address:
        raise PluginSkipped("no address is configured", f'set address = "127.0.0.1:9464" in [services.{context.name}]')
    from intermodal_metrics.server import Metrics

    return Metrics(context)


plugin = Plugin(factory=_make, config=Config)
