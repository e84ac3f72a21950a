"""containerd.services.diff.v1.Diff."""

from __future__ import annotations

from intermodal_api.containerd.services import diff_pb2 as pb
from intermodal_core.contracts.managers.images import Images

from intermodal_wire.calls import Call, Service
from intermodal_wire.values import descriptor_from, descriptor_to, mounts_from, nanoseconds

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

    async def diff(self, request: pb.DiffRequest, call: Call) -> pb.DiffResponse:
        """Diff."""
        latest = nanoseconds(request.source_date_epoch) if request.HasField("source_date_epoch") else None
        made = await self._images.compare(
            call.scope,
            mounts_from(request.left),
            mounts_from(request.right),
            request.media_type,
            dict(request.labels),
            latest,
        )
        return pb.DiffResponse(diff=descriptor_to(made))
