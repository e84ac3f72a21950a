"""The adapter: `[event_sinks.webhook]` of the configuration."""

from __future__ import annotations

from typing import Annotated

import msgspec
from intermodal_core.errors import InvalidArgument, PluginSkipped
from intermodal_core.plugin import Context, Plugin

__all__ = ["Config", "plugin"]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of `[event_sinks.webhook]`."""

    url: Annotated[str, msgspec.Meta(description="Where to POST, http:// or https://.")] = ""
    filters: Annotated[tuple[str, ...], msgspec.Meta(description="Which events; of several any may match.")] = ()
    headers: Annotated[dict[str, str], msgspec.Meta(description="Headers of each request.")] = {}
    secret_file: Annotated[
        str, msgspec.Meta(description="A file with the key that requests are signed with; empty: they are not.")
    ] = ""
    timeout: Annotated[float, msgspec.Meta(gt=0, description="Seconds to wait for an answer.")] = 10.0


def _make(context: Context[Config]) -> object:
    from intermodal_webhook.sink import Webhook  # urllib comes with it

    config = context.config
    if not config.url:
        raise PluginSkipped("no url is named", f'set url = "https://..." in [event_sinks.{context.name}]')
    if not config.url.startswith(("http://", "https://")):
        raise InvalidArgument(f"[event_sinks.{context.name}] url: expected http:// or https://, found {config.url!r}")
    secret = ""
    if config.secret_file:
        with open(config.secret_file) as file:
            secret = file.read().strip()
    return Webhook(config.url, config.filters, config.headers, secret, config.timeout)


plugin = Plugin(factory=_make, config=Config)
