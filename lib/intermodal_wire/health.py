"""grpc.health.v1.Health, of services and of what they stand on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from intermodal_api.grpc import health_pb2 as pb
from intermodal_core.errors import NotFound

from intermodal_wire.calls import Call, Service

__all__ = ["Health"]

_Status = pb.HealthCheckResponse


class Health(Service):
    """`trouble(service)` is why one does not serve, "" where it does, None where there is no such; `change()` is set at the next."""

    descriptor = pb.DESCRIPTOR.services_by_name["Health"]

    def __init__(self, trouble: Callable[[str], str | None], change: Callable[[], asyncio.Event]) -> None:
        self._trouble = trouble
        self._change = change

    async def check(self, request: pb.HealthCheckRequest, call: Call) -> pb.HealthCheckResponse:
        """Check."""
        trouble = self._trouble(request.service)
        if trouble is None:
            raise NotFound(f"there is no service {request.service}")
        return _Status(status=_Status.NOT_SERVING if trouble else _Status.SERVING)

    async def watch(self, request: pb.HealthCheckRequest, call: Call) -> AsyncIterator[pb.HealthCheckResponse]:
        """Watch: the status now, and then each change."""
        last = None
        while True:
            change, trouble = self._change(), self._trouble(request.service)
            now = _Status.SERVICE_UNKNOWN if trouble is None else _Status.NOT_SERVING if trouble else _Status.SERVING
            if now != last:
                last = now
                yield _Status(status=now)
            await change.wait()
