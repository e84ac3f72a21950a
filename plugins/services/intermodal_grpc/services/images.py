"""containerd.services.images.v1.Images."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty
from intermodal_api.containerd.services import images_pb2 as pb
from intermodal_core.contracts.managers.store import Image, Store
from intermodal_wire.calls import Call, Service
from intermodal_wire.values import descriptor_from, descriptor_to, nanoseconds, timestamp

__all__ = ["Images"]


class Images(Service):
    """Translates to the store manager."""

    descriptor = pb.DESCRIPTOR.services_by_name["Images"]

    def __init__(self, store: Store) -> None:
        self._images = store.images
        self._collector = store.collector

    async def get(self, request: pb.GetImageRequest, call: Call) -> pb.GetImageResponse:
        """Get."""
        return pb.GetImageResponse(image=_message(await self._images.get(call.scope, request.name)))

    async def list(self, request: pb.ListImagesRequest, call: Call) -> pb.ListImagesResponse:
        """List."""
        return pb.ListImagesResponse(images=map(_message, await self._images.select(call.scope, request.filters)))

    async def create(self, request: pb.CreateImageRequest, call: Call) -> pb.CreateImageResponse:
        """Create."""
        made = await self._images.create(call.scope, _record(request.image))
        return pb.CreateImageResponse(image=_message(made))

    async def update(self, request: pb.UpdateImageRequest, call: Call) -> pb.UpdateImageResponse:
        """Update."""
        updated = await self._images.update(call.scope, _record(request.image), request.update_mask.paths)
        return pb.UpdateImageResponse(image=_message(updated))

    async def delete(self, request: pb.DeleteImageRequest, call: Call) -> Empty:
        """Delete; with `sync`, what it alone needed is gone when this is answered."""
        target = descriptor_from(request.target) if request.HasField("target") else None
        await self._images.delete(call.scope, request.name, target)
        if request.sync:
            await self._collector.collect()
        return Empty()


def _message(image: Image) -> pb.Image:
    return pb.Image(
        name=image.name,
        labels=image.labels,
        target=descriptor_to(image.target),
        created_at=timestamp(image.created_at),
        updated_at=timestamp(image.updated_at),
    )


def _record(message: pb.Image) -> Image:
    created_at = nanoseconds(message.created_at)
    return Image("", message.name, descriptor_from(message.target), dict(message.labels), created_at)
