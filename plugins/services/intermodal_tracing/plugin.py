"""The adapter: `services.tracing`, off unless its section has an endpoint."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from intermodal_core.errors import PluginSkipped
from intermodal_core.plugin import Context, Plugin

__all__ = ["Config", "plugin"]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of `[services.tracing]`."""

    endpoint: Annotated[
        str,
        msgspec.Meta(
            description='Where spans are sent by OTLP over HTTP, such as "http://127.0.0.1:4318/v1/traces"; empty: nowhere.',
            pattern="^(|https?://.+)$",
        ),
    ] = ""
    service: Annotated[str, msgspec.Meta(description="The service.name of the spans.")] = "intermodald"


def _make(context: Context[Config]) -> Any:
    config = context.config
    if not config.endpoint:
        raise PluginSkipped("no endpoint is configured", f"set endpoint in [services.{context.name}]")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise PluginSkipped(f"OpenTelemetry is not installed: {error}", "pip install 'intermodal[otel]'") from error
    from intermodal_tracing.tracing import Tracing

    return Tracing(config.service, BatchSpanProcessor(OTLPSpanExporter(config.endpoint)))


plugin = Plugin(factory=_make, config=Config)
