"""containerd.services.containers.v1.Containers."""

from __future__ import annotations

from collections.abc import AsyncIterator

from google.protobuf.empty_pb2 import Empty
from intermodal_api.containerd.services import containers_pb2 as pb
from intermodal_core.contracts.managers.store import AnyValue, Container, Store
from intermodal_wire.calls import Call, Service
from intermodal_wire.values import any_from, any_to, set_any, timestamp

__all__ = ["Containers"]


class Containers(Service):
    """Translates to the store manager."""

    descriptor = pb.DESCRIPTOR.services_by_name["Containers"]

    def __init__(self, store: Store) -> None:
        self._containers = store.containers

    async def get(self, request: pb.GetContainerRequest, call: Call) -> pb.GetContainerResponse:
        """Get."""
        return pb.GetContainerResponse(container=_message(await self._containers.get(call.scope, request.id)))

    async def list(self, request: pb.ListContainersRequest, call: Call) -> pb.ListContainersResponse:
        """List."""
        found = await self._containers.select(call.scope, request.filters)
        return pb.ListContainersResponse(containers=map(_message, found))

    async def list_stream(
        self, request: pb.ListContainersRequest, call: Call
    ) -> AsyncIterator[pb.ListContainerMessage]:
        """ListStream: one message a container."""
        for container in await self._containers.select(call.scope, request.filters):
            yield pb.ListContainerMessage(container=_message(container))

    async def create(self, request: pb.CreateContainerRequest, call: Call) -> pb.CreateContainerResponse:
        """Create."""
        made = await self._containers.create(call.scope, _record(request.container))
        return pb.CreateContainerResponse(container=_message(made))

    async def update(self, request: pb.UpdateContainerRequest, call: Call) -> pb.UpdateContainerResponse:
        """Update."""
        updated = await self._containers.update(call.scope, _record(request.container), request.update_mask.paths)
        return pb.UpdateContainerResponse(container=_message(updated))

    async def delete(self, request: pb.DeleteContainerRequest, call: Call) -> Empty:
        """Delete."""
        await self._containers.delete(call.scope, request.id)
        return Empty()


def _message(container: Container) -> pb.Container:
    return pb.Container(
        id=container.id,
        labels=container.labels,
        image=container.image,
        runtime=pb.Container.Runtime(name=container.runtime, options=any_to(container.runtime_options)),
        spec=any_to(container.spec),
        snapshotter=container.snapshotter,
        snapshot_key=container.snapshot_key,
        created_at=timestamp(container.created_at),
        updated_at=timestamp(container.updated_at),
        extensions={key: set_any(value) for key, value in container.extensions.items()},
        sandbox=container.sandbox,
    )


def _record(message: pb.Container) -> Container:
    return Container(
        namespace="",
        id=message.id,
        image=message.image,
        labels=dict(message.labels),
        runtime=message.runtime.name,
        runtime_options=any_from(message.runtime.options),
        spec=any_from(message.spec),
        snapshotter=message.snapshotter,
        snapshot_key=message.snapshot_key,
        extensions={key: AnyValue(value.type_url, value.value) for key, value in message.extensions.items()},
        sandbox=message.sandbox,
    )
