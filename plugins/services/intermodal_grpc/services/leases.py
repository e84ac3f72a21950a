"""containerd.services.leases.v1.Leases."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty
from intermodal_api.containerd.services import leases_pb2 as pb
from intermodal_core.contracts.managers.store import Lease, Resource, Store
from intermodal_wire.calls import Call, Service
from intermodal_wire.values import timestamp

__all__ = ["Leases"]


class Leases(Service):
    """Translates to the store manager."""

    descriptor = pb.DESCRIPTOR.services_by_name["Leases"]

    def __init__(self, store: Store) -> None:
        self._leases = store.leases
        self._collector = store.collector

    async def create(self, request: pb.CreateRequest, call: Call) -> pb.CreateResponse:
        """Create."""
        made = await self._leases.create(call.scope, request.id, dict(request.labels))
        return pb.CreateResponse(lease=_message(made))

    async def delete(self, request: pb.DeleteRequest, call: Call) -> Empty:
        """Delete; with `sync`, what it alone protected is gone when this is answered."""
        await self._leases.delete(call.scope, request.id)
        if request.sync:
            await self._collector.collect()
        return Empty()

    async def list(self, request: pb.ListRequest, call: Call) -> pb.ListResponse:
        """List."""
        return pb.ListResponse(leases=map(_message, await self._leases.select(call.scope, request.filters)))

    async def add_resource(self, request: pb.AddResourceRequest, call: Call) -> Empty:
        """AddResource."""
        await self._leases.add(call.scope, request.id, Resource(request.resource.id, request.resource.type))
        return Empty()

    async def delete_resource(self, request: pb.DeleteResourceRequest, call: Call) -> Empty:
        """DeleteResource."""
        await self._leases.remove(call.scope, request.id, Resource(request.resource.id, request.resource.type))
        return Empty()

    async def list_resources(self, request: pb.ListResourcesRequest, call: Call) -> pb.ListResourcesResponse:
        """ListResources."""
        found = await self._leases.resources(call.scope, request.id)
        return pb.ListResourcesResponse(resources=[pb.Resource(id=each.id, type=each.type) for each in found])


def _message(lease: Lease) -> pb.Lease:
    return pb.Lease(id=lease.id, created_at=timestamp(lease.created_at), labels=lease.labels)
