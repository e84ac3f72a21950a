"""A span of OpenTelemetry for each guarded call of a plugin, within that of the call that made it."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from typing import Self

from intermodal_core import calls
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

__all__ = ["Tracing"]


class Tracing:
    """Gives the spans of the service called `service` to `processor` while it is entered."""

    def __init__(self, service: str, processor: SpanProcessor) -> None:
        self._provider = TracerProvider(resource=Resource.create({"service.name": service}), shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("intermodal")

    async def __aenter__(self) -> Self:
        """Begin."""
        calls.trace(self._span)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Send what is left; no more spans are made."""
        calls.trace(None)
        await asyncio.to_thread(self._provider.shutdown)

    def _span(self, plugin: str, method: str) -> AbstractContextManager[object]:
        attributes = {"intermodal.plugin": plugin, "intermodal.method": method}
        return self._tracer.start_as_current_span(f"{plugin}.{method}", attributes=attributes)
