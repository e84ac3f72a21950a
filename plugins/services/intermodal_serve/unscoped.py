"""A backend with the methods of the managers' contracts: namespace, lease and name are let drop.

The daemon that calls keeps namespaces and labels itself, and gives keys and refs that are unique in the backend.
"""

# ruff: noqa: D102 - each method is that of the contract which its class names

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any

from intermodal_core.contracts.common import Descriptor, Mount, Usage
from intermodal_core.contracts.content import BlobInfo, IngestStatus
from intermodal_core.contracts.managers.store import ContentInfo, Scope
from intermodal_core.contracts.snapshotters import SnapshotInfo
from intermodal_core.errors import FailedPrecondition, Unimplemented
from intermodal_core.filters import compile_filters, resolver_of
from intermodal_wire.values import masked

__all__ = ["UnscopedContent", "UnscopedDiffs", "UnscopedSnapshots"]


class UnscopedSnapshots:
    """A snapshotter, as `intermodal_core.contracts.managers.store.Snapshots`."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.snapshots = self

    async def prepare(self, scope: Scope, name: str, key: str, parent: str, labels: Mapping[str, str]) -> list[Mount]:
        return await self._backend.prepare(key, parent, labels)  # type: ignore[no-any-return]

    async def view(self, scope: Scope, name: str, key: str, parent: str, labels: Mapping[str, str]) -> list[Mount]:
        return await self._backend.view(key, parent, labels)  # type: ignore[no-any-return]

    async def mounts(self, scope: Scope, name: str, key: str) -> list[Mount]:
        return await self._backend.mounts(key)  # type: ignore[no-any-return]

    async def commit(
        self, scope: Scope, name: str, target: str, key: str, labels: Mapping[str, str], parent: str | None = None
    ) -> None:
        await self._backend.commit(target, key, labels, parent)

    async def remove(self, scope: Scope, name: str, key: str) -> None:
        await self._backend.remove(key)

    async def stat(self, scope: Scope, name: str, key: str) -> SnapshotInfo:
        return await self._backend.stat(key)  # type: ignore[no-any-return]

    async def update(
        self, scope: Scope, name: str, key: str, labels: Mapping[str, str], fields: Sequence[str]
    ) -> SnapshotInfo:
        old = await self._backend.stat(key) if fields else None
        return await self._backend.update(key, masked(old.labels if old else {}, labels, fields))  # type: ignore[no-any-return]

    async def select(self, scope: Scope, name: str, filters: Sequence[str]) -> list[SnapshotInfo]:
        return await self._backend.walk(tuple(filters))  # type: ignore[no-any-return]

    async def usage(self, scope: Scope, name: str, key: str) -> Usage:
        return await self._backend.usage(key)  # type: ignore[no-any-return]

    async def cleanup(self, scope: Scope, name: str) -> None:
        await self._backend.cleanup()


class UnscopedContent:
    """A content store, as `intermodal_core.contracts.managers.store.Content`."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.content = self

    async def info(self, scope: Scope, digest: str) -> ContentInfo:
        return _content_info(await self._backend.info(digest))

    async def select(self, scope: Scope, filters: Sequence[str]) -> list[ContentInfo]:
        matches = compile_filters(filters)
        infos = map(_content_info, await self._backend.walk())
        return [info for info in infos if matches(resolver_of({"digest": info.digest, "size": str(info.size)}))]

    async def update(self, scope: Scope, digest: str, labels: Mapping[str, str], fields: Sequence[str]) -> ContentInfo:
        await self._backend.info(digest)
        raise Unimplemented("a content store behind a proxy keeps no labels; the daemon that it serves does")

    async def delete(self, scope: Scope, digest: str) -> None:
        await self._backend.delete(digest)

    async def open(self, scope: Scope, digest: str) -> int:
        return await self._backend.open(digest)  # type: ignore[no-any-return]

    async def read(self, scope: Scope, digest: str) -> bytes:
        fd = await self.open(scope, digest)
        try:
            with open(fd, "rb", closefd=False) as file:
                return await asyncio.to_thread(file.read)
        finally:
            os.close(fd)

    async def begin(self, scope: Scope, ref: str, total: int, expected: str) -> IngestStatus:
        return await self._backend.begin(ref, total, expected)  # type: ignore[no-any-return]

    async def append(self, scope: Scope, ref: str, data: bytes, offset: int) -> int:
        return await self._backend.append(ref, data, offset)  # type: ignore[no-any-return]

    async def truncate(self, scope: Scope, ref: str, size: int) -> None:
        await self._backend.truncate(ref, size)

    async def commit(self, scope: Scope, ref: str, size: int, expected: str, labels: Mapping[str, str]) -> ContentInfo:
        return _content_info(await self._backend.commit(ref, size, expected))

    async def close(self, scope: Scope, ref: str) -> None:
        await self._backend.close(ref)

    async def abort(self, scope: Scope, ref: str) -> None:
        await self._backend.abort(ref)

    async def status(self, scope: Scope, ref: str) -> IngestStatus:
        return await self._backend.status(ref)  # type: ignore[no-any-return]

    async def statuses(self, scope: Scope, filters: Sequence[str]) -> list[IngestStatus]:
        matches = compile_filters(filters)
        return [each for each in await self._backend.statuses() if matches(resolver_of({"ref": each.ref}))]


class UnscopedDiffs:
    """A differ, as `apply` of `intermodal_core.contracts.managers.images.Images`; layers come from the caller's content store."""

    def __init__(self, backend: Any, content: str) -> None:
        self._backend = backend
        self._content = content

    async def apply(self, scope: Scope, layer: Descriptor, mounts: tuple[Mount, ...]) -> Descriptor:
        from intermodal_wire.reading import blob_to

        reader, writer = os.pipe2(os.O_CLOEXEC)
        headers = {"containerd-namespace": scope.named, "containerd-lease": scope.lease}
        sending = asyncio.create_task(asyncio.to_thread(blob_to, writer, self._content, layer.digest, headers))
        try:
            applied = await self._backend.apply(reader, layer, mounts)
        finally:
            os.close(reader)
            failed = (await asyncio.gather(sending, return_exceptions=True))[0]
        if isinstance(failed, BaseException):
            raise failed
        if applied.source_digest != layer.digest:
            raise FailedPrecondition(f"the blob of the layer {layer.digest} has the digest {applied.source_digest}")
        return Descriptor("application/vnd.oci.image.layer.v1.tar", applied.diff_id, applied.size)


def _content_info(info: BlobInfo) -> ContentInfo:
    return ContentInfo("", info.digest, info.size, {}, info.created_at, info.created_at)
