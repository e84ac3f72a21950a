"""containerd.services.namespaces.v1.Namespaces."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty
from intermodal_api.containerd.services import namespaces_pb2 as pb
from intermodal_core.contracts.managers.store import Namespace, Store
from intermodal_wire.calls import Call, Service

__all__ = ["Namespaces"]


class Namespaces(Service):
    """Translates to the store manager."""

    descriptor = pb.DESCRIPTOR.services_by_name["Namespaces"]

    def __init__(self, store: Store) -> None:
        self._namespaces = store.namespaces

    async def get(self, request: pb.GetNamespaceRequest, call: Call) -> pb.GetNamespaceResponse:
        """Get."""
        return pb.GetNamespaceResponse(namespace=_message(await self._namespaces.get(request.name)))

    async def list(self, request: pb.ListNamespacesRequest, call: Call) -> pb.ListNamespacesResponse:
        """List."""
        found = await self._namespaces.select((request.filter,) if request.filter else ())
        return pb.ListNamespacesResponse(namespaces=map(_message, found))

    async def create(self, request: pb.CreateNamespaceRequest, call: Call) -> pb.CreateNamespaceResponse:
        """Create."""
        made = await self._namespaces.create(request.namespace.name, dict(request.namespace.labels))
        return pb.CreateNamespaceResponse(namespace=_message(made))

    async def update(self, request: pb.UpdateNamespaceRequest, call: Call) -> pb.UpdateNamespaceResponse:
        """Update."""
        namespace = request.namespace
        updated = await self._namespaces.update(namespace.name, dict(namespace.labels), request.update_mask.paths)
        return pb.UpdateNamespaceResponse(namespace=_message(updated))

    async def delete(self, request: pb.DeleteNamespaceRequest, call: Call) -> Empty:
        """Delete."""
        await self._namespaces.delete(request.name)
        return Empty()


def _message(namespace: Namespace) -> pb.Namespace:
    return pb.Namespace(name=namespace.name, labels=namespace.labels)
