"""grpc.health.v1.Health of what is served: NOT_SERVING while its calls fail at once."""

from __future__ import annotations

from collections.abc import AsyncIterator

from intermodal_api.grpc import health_pb2 as pb
from intermodal_core.registry import Registry
from intermodal_wire.calls import Call, Service

__all__ = ["Health"]


class Health(Service):
    """The backend's, whatever service is asked for."""

    descriptor = pb.DESCRIPTOR.services_by_name["Health"]

    def __init__(self, registry: Registry, kind: str, name: str) -> None:
        self._registry = registry
        self._of = kind, name

    async def check(self, request: pb.HealthCheckRequest, call: Call) -> pb.HealthCheckResponse:
        """Check."""
        return self._now()

    async def watch(self, request: pb.HealthCheckRequest, call: Call) -> AsyncIterator[pb.HealthCheckResponse]:
        """Watch: the status now, and then each change."""
        last = None
        while True:
            if (now := self._now()) != last:
                last = now
                yield now
            await self._registry.change()

    def _now(self) -> pb.HealthCheckResponse:
        trouble = self._registry.find(*self._of).trouble
        status = pb.HealthCheckResponse
        return status(status=status.NOT_SERVING if trouble else status.SERVING)
