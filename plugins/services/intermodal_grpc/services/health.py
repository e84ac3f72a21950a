"""grpc.health.v1.Health."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection

from intermodal_api.grpc import health_pb2 as pb
from intermodal_core.errors import NotFound
from intermodal_wire.calls import Call, Service

__all__ = ["Health"]


class Health(Service):
    """SERVING for the daemon ("") and each service that it serves."""

    descriptor = pb.DESCRIPTOR.services_by_name["Health"]

    def __init__(self, services: Collection[str]) -> None:
        self._services = {"", *services}

    async def check(self, request: pb.HealthCheckRequest, call: Call) -> pb.HealthCheckResponse:
        """Check."""
        if request.service not in self._services:
            raise NotFound(f"there is no service {request.service}")
        return pb.HealthCheckResponse(status=pb.HealthCheckResponse.SERVING)

    async def watch(self, request: pb.HealthCheckRequest, call: Call) -> AsyncIterator[pb.HealthCheckResponse]:
        """Watch: the status now, and then each change; serving does not change while the daemon runs."""
        known = request.service in self._services
        status = pb.HealthCheckResponse.SERVING if known else pb.HealthCheckResponse.SERVICE_UNKNOWN
        yield pb.HealthCheckResponse(status=status)
        await asyncio.Event().wait()
