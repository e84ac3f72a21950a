"""containerd.services.snapshots.v1.Snapshots."""

from __future__ import annotations

from collections.abc import AsyncIterator

from google.protobuf.empty_pb2 import Empty
from intermodal_api.containerd.services import snapshots_pb2 as pb
from intermodal_core.contracts.managers.store import Store
from intermodal_core.contracts.snapshotters import SnapshotInfo

from intermodal_wire.calls import Call, Service
from intermodal_wire.values import mounts_to, timestamp

__all__ = ["Snapshots"]

_KINDS = {"view": pb.VIEW, "active": pb.ACTIVE, "committed": pb.COMMITTED}
_BATCH = 100


class Snapshots(Service):
    """Translates to the store manager."""

    descriptor = pb.DESCRIPTOR.services_by_name["Snapshots"]

    def __init__(self, store: Store) -> None:
        self._snapshots = store.snapshots

    async def prepare(self, request: pb.PrepareSnapshotRequest, call: Call) -> pb.PrepareSnapshotResponse:
        """Prepare."""
        mounts = await self._snapshots.prepare(
            call.scope, request.snapshotter, request.key, request.parent, dict(request.labels)
        )
        return pb.PrepareSnapshotResponse(mounts=mounts_to(mounts))

    async def view(self, request: pb.ViewSnapshotRequest, call: Call) -> pb.ViewSnapshotResponse:
        """View."""
        mounts = await self._snapshots.view(
            call.scope, request.snapshotter, request.key, request.parent, dict(request.labels)
        )
        return pb.ViewSnapshotResponse(mounts=mounts_to(mounts))

    async def mounts(self, request: pb.MountsRequest, call: Call) -> pb.MountsResponse:
        """Mounts."""
        mounts = await self._snapshots.mounts(call.scope, request.snapshotter, request.key)
        return pb.MountsResponse(mounts=mounts_to(mounts))

    async def commit(self, request: pb.CommitSnapshotRequest, call: Call) -> Empty:
        """Commit."""
        await self._snapshots.commit(
            call.scope, request.snapshotter, request.name, request.key, dict(request.labels), request.parent or None
        )
        return Empty()

    async def remove(self, request: pb.RemoveSnapshotRequest, call: Call) -> Empty:
        """Remove."""
        await self._snapshots.remove(call.scope, request.snapshotter, request.key)
        return Empty()

    async def stat(self, request: pb.StatSnapshotRequest, call: Call) -> pb.StatSnapshotResponse:
        """Stat."""
        found = await self._snapshots.stat(call.scope, request.snapshotter, request.key)
        return pb.StatSnapshotResponse(info=_message(found))

    async def update(self, request: pb.UpdateSnapshotRequest, call: Call) -> pb.UpdateSnapshotResponse:
        """Update."""
        info = request.info
        updated = await self._snapshots.update(
            call.scope, request.snapshotter, info.name, dict(info.labels), request.update_mask.paths
        )
        return pb.UpdateSnapshotResponse(info=_message(updated))

    async def list(self, request: pb.ListSnapshotsRequest, call: Call) -> AsyncIterator[pb.ListSnapshotsResponse]:
        """List, in messages of a hundred."""
        found = await self._snapshots.select(call.scope, request.snapshotter, request.filters)
        for start in range(0, len(found), _BATCH):
            yield pb.ListSnapshotsResponse(info=map(_message, found[start : start + _BATCH]))

    async def usage(self, request: pb.UsageRequest, call: Call) -> pb.UsageResponse:
        """Usage."""
        usage = await self._snapshots.usage(call.scope, request.snapshotter, request.key)
        return pb.UsageResponse(size=usage.size, inodes=usage.inodes)

    async def cleanup(self, request: pb.CleanupRequest, call: Call) -> Empty:
        """Cleanup."""
        await self._snapshots.cleanup(call.scope, request.snapshotter)
        return Empty()


def _message(info: SnapshotInfo) -> pb.Info:
    return pb.Info(
        name=info.key,
        parent=info.parent,
        kind=_KINDS[info.kind],
        created_at=timestamp(info.created_at),
        updated_at=timestamp(info.updated_at),
        labels=info.labels,
    )
