"""containerd.services.content.v1.Content."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

from google.protobuf.empty_pb2 import Empty
from intermodal_api.containerd.services import content_pb2 as pb
from intermodal_core.contracts.content import IngestStatus
from intermodal_core.contracts.managers.store import ContentInfo, Scope, Store
from intermodal_core.errors import InvalidArgument, OutOfRange

from intermodal_wire.calls import Call, Service
from intermodal_wire.values import timestamp

__all__ = ["Content"]

_BATCH = 100
_CHUNK = 1 << 20
#: Up to here a blob comes from memory.
_SMALL = 64 << 10


class Content(Service):
    """Translates to the store manager."""

    descriptor = pb.DESCRIPTOR.services_by_name["Content"]

    def __init__(self, store: Store) -> None:
        self._content = store.content

    async def info(self, request: pb.InfoRequest, call: Call) -> pb.InfoResponse:
        """Info."""
        return pb.InfoResponse(info=_message(await self._content.info(call.scope, request.digest)))

    async def update(self, request: pb.UpdateRequest, call: Call) -> pb.UpdateResponse:
        """Update."""
        info = request.info
        updated = await self._content.update(call.scope, info.digest, dict(info.labels), request.update_mask.paths)
        return pb.UpdateResponse(info=_message(updated))

    async def list(self, request: pb.ListContentRequest, call: Call) -> AsyncIterator[pb.ListContentResponse]:
        """List, in messages of a hundred."""
        found = await self._content.select(call.scope, request.filters)
        for start in range(0, len(found), _BATCH):
            yield pb.ListContentResponse(info=map(_message, found[start : start + _BATCH]))

    async def delete(self, request: pb.DeleteContentRequest, call: Call) -> Empty:
        """Delete."""
        await self._content.delete(call.scope, request.digest)
        return Empty()

    async def read(self, request: pb.ReadContentRequest, call: Call) -> AsyncIterator[pb.ReadContentResponse]:
        """Read, in messages of a mebibyte."""
        info = await self._content.info(call.scope, request.digest)
        if not 0 <= request.offset <= info.size:
            raise OutOfRange(f"the offset {request.offset} is outside the blob {info.digest} of {info.size} bytes")
        end = min(info.size, request.offset + request.size) if request.size else info.size
        if info.size <= _SMALL:
            data = await self._content.read(call.scope, request.digest)
            yield pb.ReadContentResponse(offset=request.offset, data=data[request.offset : end])
            return
        fd = await self._content.open(call.scope, request.digest)
        try:
            for offset in range(request.offset, end, _CHUNK):
                data = await asyncio.to_thread(os.pread, fd, min(_CHUNK, end - offset), offset)
                yield pb.ReadContentResponse(offset=offset, data=data)
        finally:
            os.close(fd)

    async def status(self, request: pb.StatusRequest, call: Call) -> pb.StatusResponse:
        """Status."""
        return pb.StatusResponse(status=_status(await self._content.status(call.scope, request.ref)))

    async def list_statuses(self, request: pb.ListStatusesRequest, call: Call) -> pb.ListStatusesResponse:
        """ListStatuses."""
        found = await self._content.statuses(call.scope, request.filters)
        return pb.ListStatusesResponse(statuses=map(_status, found))

    async def abort(self, request: pb.AbortRequest, call: Call) -> Empty:
        """Abort."""
        await self._content.abort(call.scope, request.ref)
        return Empty()

    async def write(
        self, requests: AsyncIterator[pb.WriteContentRequest], call: Call
    ) -> AsyncIterator[pb.WriteContentResponse]:
        """Write: one ingest, opened by the first message and let go of with the stream."""
        scope = call.scope
        ref = ""
        try:
            async for request in requests:
                if not ref:
                    if not request.ref:
                        raise InvalidArgument("the first message of a write needs a ref")
                    status = await self._content.begin(scope, request.ref, request.total, request.expected)
                    ref, writing = request.ref, _Writing(status)
                elif request.ref and request.ref != ref:
                    raise InvalidArgument(f"one write is one ingest: {ref}, not {request.ref}")
                yield await self._act(scope, ref, writing, request)
        finally:
            if ref:
                await self._content.close(scope, ref)

    async def _act(
        self, scope: Scope, ref: str, writing: _Writing, request: pb.WriteContentRequest
    ) -> pb.WriteContentResponse:
        writing.expect(request)
        response = pb.WriteContentResponse(action=request.action)
        if request.action != pb.STAT and (request.data or request.action == pb.WRITE):
            if request.offset == 0 and writing.offset:
                await self._content.truncate(scope, ref, 0)
                writing.offset = 0
            writing.offset = await self._content.append(scope, ref, request.data, request.offset)
        if request.action == pb.STAT:
            response.digest = (await self._content.status(scope, ref)).digest
        if request.action == pb.COMMIT:
            info = await self._content.commit(scope, ref, writing.total, writing.expected, dict(request.labels))
            response.digest = info.digest
            writing.offset = info.size
        response.offset = writing.offset
        response.total = writing.total
        response.started_at.FromNanoseconds(writing.started_at)
        response.updated_at.GetCurrentTime()
        return response


class _Writing:
    """What is known of the ingest of one stream."""

    def __init__(self, status: IngestStatus) -> None:
        self.offset = status.offset
        self.total = status.total
        self.expected = status.expected
        self.started_at = status.started_at

    def expect(self, request: pb.WriteContentRequest) -> None:
        """Totals and digests may come late, but they do not change."""
        for name in ("total", "expected"):
            given, known = getattr(request, name), getattr(self, name)
            if given and known and given != known:
                raise InvalidArgument(f"the ingest was begun with {name} {known}, and now it is {given}")
            if given:
                setattr(self, name, given)


def _message(info: ContentInfo) -> pb.Info:
    return pb.Info(
        digest=info.digest,
        size=info.size,
        created_at=timestamp(info.created_at),
        updated_at=timestamp(info.updated_at),
        labels=info.labels,
    )


def _status(status: IngestStatus) -> pb.Status:
    return pb.Status(
        started_at=timestamp(status.started_at),
        updated_at=timestamp(status.updated_at),
        ref=status.ref,
        offset=status.offset,
        total=status.total,
        expected=status.expected,
    )
