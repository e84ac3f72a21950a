"""containerd.services.diff.v1.Diff."""

from __future__ import annotations

from intermodal_api.containerd.services import diff_pb2 as pb
from intermodal_core.contracts.managers.images import Images

from intermodal_wire.calls import Call, Service
from intermodal_wire.values import descriptor_from, descriptor_to, mounts_from

__all__ = ["Diff"]


class Diff(Service):
    """Translates to the images manager."""

    descriptor = pb.DESCRIPTOR.services_by_name["Diff"]

    def __init__(self, images: Images) -> None:
        self._images = images

    async def apply(self, request: pb.ApplyRequest, call: Call) -> pb.ApplyResponse:
        """Apply."""
        applied = await self._images.apply(call.scope, descriptor_from(request.diff), mounts_from(request.mounts))
        return pb.ApplyResponse(applied=descriptor_to(applied))
