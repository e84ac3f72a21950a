"""Content as one namespace sees it.

The backend holds a blob once. A namespace sees it when it has a row of its own, and gets that row by writing the bytes:
knowing a digest is not enough.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from os import close, fstat, pread
from typing import TYPE_CHECKING, Any

import msgspec
from intermodal_api.containerd.events import content_pb2 as events
from intermodal_core.background import finished
from intermodal_core.contracts.content import BlobInfo, IngestStatus
from intermodal_core.contracts.managers.store import INTERNAL_REF, ContentInfo, Scope
from intermodal_core.contracts.metadata import Transaction
from intermodal_core.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from intermodal_oci.references import validate_digest, validate_labels

from intermodal_store.fields import merged, selected
from intermodal_store.names import enter, namespace_of, not_found, now
from intermodal_store.tables import CONTENT, RESOURCES

if TYPE_CHECKING:
    from intermodal_store.store import Store

__all__ = ["Content"]

#: The largest blob that `read` returns whole, and how many bytes of small ones stay in memory.
_WHOLE = 8 << 20
_SMALL = 64 << 10
_CACHE = 2 << 20
#: ns before the newest record in which a blob may have been made that a crash kept from being recorded.
_RECENT = 3600 * 1_000_000_000


class Content:
    """Implements `intermodal_core.contracts.managers.store.Content`."""

    def __init__(self, store: Store, backend: Any) -> None:
        self._store = store
        self._backend = backend
        self._cache: OrderedDict[str, bytes] = OrderedDict()
        self._cached = 0

    async def info(self, scope: Scope, digest: str) -> ContentInfo:
        """One blob."""
        namespace = namespace_of(scope)
        return await self._store.read(lambda tx: _get(tx, namespace, digest))

    async def keep(self, scope: Scope, digest: str) -> ContentInfo:
        """One blob, protected."""
        namespace = namespace_of(scope)

        def keep(tx: Transaction) -> ContentInfo:
            info = _get(tx, namespace, digest)
            self._store.leases.protect(tx, scope, "content", digest, made=False)
            return info

        return await self._store.write(keep)

    async def select(self, scope: Scope, filters: Sequence[str] = ()) -> list[ContentInfo]:
        """All that match."""
        namespace = namespace_of(scope)
        return await self._store.read(lambda tx: selected(tx.scan(CONTENT, namespace), filters), long=True)

    async def update(
        self, scope: Scope, digest: str, labels: Mapping[str, str], fields: Sequence[str] = ()
    ) -> ContentInfo:
        """Change labels."""
        namespace = namespace_of(scope)
        validate_labels(labels)

        def update(tx: Transaction) -> ContentInfo:
            current = _get(tx, namespace, digest)
            new = msgspec.structs.replace(current, labels=dict(labels))
            updated = merged(current, new, fields, {"labels": "labels"})
            updated = msgspec.structs.replace(updated, updated_at=now())
            tx.put(CONTENT, updated)
            return updated

        return await self._store.write(update)

    async def delete(self, scope: Scope, digest: str) -> None:
        """Forget a blob; the backend's bytes go when no namespace sees them."""
        namespace = namespace_of(scope)

        def delete(tx: Transaction) -> bool:
            _get(tx, namespace, digest)
            tx.delete(CONTENT, namespace, digest)
            return self.forgotten(tx, namespace, digest)

        if await self._store.write(delete):
            await self._store.tombstones.follow()
        self._store.collector.changed()

    def forgotten(self, tx: Transaction, namespace: str, digest: str) -> bool:
        """Tell that a namespace's record was dropped; a blob that no other sees is to go, and True is returned."""
        self._store.emit(tx, namespace, "/content/delete", events.ContentDelete(digest=digest))
        if tx.count(CONTENT, digest, index="by_digest"):
            return False
        self._store.tombstones.leave(tx, "content", digest)
        return True

    def uncache(self, digest: str) -> None:
        """The blob is gone."""
        self._cached -= len(self._cache.pop(digest, b""))

    async def open(self, scope: Scope, digest: str) -> int:
        """A read-only descriptor."""
        await self.info(scope, digest)
        return await self._backend.open(digest)  # type: ignore[no-any-return]

    async def read(self, scope: Scope, digest: str) -> bytes:
        """A small blob whole."""
        info = await self.info(scope, digest)
        data = self._cache.get(digest)
        if data is not None:
            self._cache.move_to_end(digest)
            return data
        if info.size > _WHOLE:
            raise InvalidArgument(
                f"the blob {digest} has {info.size} bytes, too many to be read whole (at most {_WHOLE})"
            )
        fd = await self._backend.open(digest)
        try:
            data = pread(fd, fstat(fd).st_size, 0)
        finally:
            close(fd)
        if len(data) <= _SMALL:
            self._remember(digest, data)
        return data

    def _remember(self, digest: str, data: bytes) -> None:
        if digest in self._cache:
            return
        self._cache[digest] = data
        self._cached += len(data)
        while self._cached > _CACHE:
            self._cached -= len(self._cache.popitem(last=False)[1])

    # Ingests.

    async def begin(self, scope: Scope, ref: str, total: int = 0, expected: str = "") -> IngestStatus:
        """Open an ingest."""
        namespace = namespace_of(scope)
        if not ref:
            raise InvalidArgument("an ingest needs a ref")
        if expected:
            validate_digest(expected)
            await self._refuse_known(scope, expected)
        # The backend is not told the digest: it may hold the blob for another namespace, whose bytes this one
        # has to show first.
        status: IngestStatus = await self._backend.begin(_backend_ref(namespace, ref), total, "")
        if scope.lease:
            await self._store.write(lambda tx: self._store.leases.protect(tx, scope, "ingests", ref))
        return msgspec.structs.replace(status, ref=ref, expected=expected)

    async def _refuse_known(self, scope: Scope, digest: str) -> None:
        def known(tx: Transaction) -> bool:
            return tx.get(CONTENT, scope.namespace, digest) is not None

        def protect(tx: Transaction) -> bool:
            if not known(tx):
                return False  # it was collected this instant
            self._store.leases.protect(tx, scope, "content", digest, made=False)
            return True

        if not await self._store.read(known):
            return
        # A lease on what is there already is as good as one on what is written.
        if scope.lease and not await self._store.write(protect):
            return
        raise AlreadyExists(f"the blob {digest} is in the namespace {scope.namespace} already")

    async def append(self, scope: Scope, ref: str, data: bytes, offset: int = -1) -> int:
        """Write at the end."""
        return await self._backend.append(_backend_ref(namespace_of(scope), ref), data, offset)  # type: ignore[no-any-return]

    async def truncate(self, scope: Scope, ref: str, size: int) -> None:
        """Cut."""
        await self._backend.truncate(_backend_ref(namespace_of(scope), ref), size)

    async def commit(
        self, scope: Scope, ref: str, size: int = 0, expected: str = "", labels: Mapping[str, str] | None = None
    ) -> ContentInfo:
        """Make the blob of an ingest and let this namespace see it."""
        namespace = namespace_of(scope)
        validate_labels(labels or {})
        if expected:
            validate_digest(expected)
        backend_ref = _backend_ref(namespace, ref)
        digest = expected or (await self._backend.status(backend_ref)).digest
        return await finished(self._commit(scope, ref, digest, size, expected, labels or {}))

    async def _commit(
        self, scope: Scope, ref: str, digest: str, size: int, expected: str, labels: Mapping[str, str]
    ) -> ContentInfo:
        backend_ref = _backend_ref(scope.namespace, ref)
        async with self._store.lock("content", digest):
            try:
                blob: BlobInfo = await self._backend.commit(backend_ref, size, expected)
            except AlreadyExists:  # another namespace wrote it before; this one has shown the bytes, too
                blob = await self._backend.info(digest)
            return await self._record(scope, blob, labels, ref, exclusive=True)

    async def _record(
        self, scope: Scope, blob: BlobInfo, labels: Mapping[str, str], ref: str = "", exclusive: bool = False
    ) -> ContentInfo:
        def record(tx: Transaction) -> ContentInfo:
            current = tx.get(CONTENT, scope.namespace, blob.digest)
            if current is not None and exclusive:
                raise AlreadyExists(f"the blob {blob.digest} is in the namespace {scope.namespace} already")
            enter(tx, scope)
            when = now()
            merged_labels = {**(current.labels if current else {}), **labels}
            created_at = current.created_at if current else when
            info = ContentInfo(scope.namespace, blob.digest, blob.size, merged_labels, created_at, when)
            tx.put(CONTENT, info)
            self._store.tombstones.cancel(tx, "content", blob.digest)
            self._store.leases.protect(tx, scope, "content", blob.digest, made=current is None)
            if scope.lease and ref:
                tx.delete(RESOURCES, scope.namespace, scope.lease, "ingests", ref)
            if current is None:
                message = events.ContentCreate(digest=blob.digest, size=blob.size)
                self._store.emit(tx, scope.namespace, "/content/create", message)
            return info

        return await self._store.write(record)

    async def close(self, scope: Scope, ref: str) -> None:
        """Let go of an ingest."""
        await self._backend.close(_backend_ref(namespace_of(scope), ref))

    async def abort(self, scope: Scope, ref: str) -> None:
        """Drop an ingest."""
        await self._backend.abort(_backend_ref(namespace_of(scope), ref))

    async def status(self, scope: Scope, ref: str) -> IngestStatus:
        """One ingest."""
        status: IngestStatus = await self._backend.status(_backend_ref(namespace_of(scope), ref))
        return msgspec.structs.replace(status, ref=ref)

    async def statuses(self, scope: Scope, filters: Sequence[str] = ()) -> list[IngestStatus]:
        """The namespace's ingests."""
        prefix = _backend_ref(namespace_of(scope), "")
        statuses = await self._backend.statuses()
        mine = [
            msgspec.structs.replace(status, ref=status.ref.removeprefix(prefix))
            for status in statuses
            if status.ref.startswith(prefix)
        ]
        return selected(mine, filters)

    async def write(
        self, scope: Scope, data: bytes, digest: str = "", labels: Mapping[str, str] | None = None
    ) -> ContentInfo:
        """A small blob at once."""
        namespace_of(scope)
        validate_labels(labels or {})
        actual = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if digest and digest != actual:
            raise FailedPrecondition(f"the bytes given have the digest {actual}, not {digest}")
        return await finished(self._write(scope, data, actual, labels or {}))

    async def _write(self, scope: Scope, data: bytes, actual: str, labels: Mapping[str, str]) -> ContentInfo:
        namespace = scope.namespace
        async with self._store.lock("content", actual):
            try:
                blob: BlobInfo = await self._backend.info(actual)
            except NotFound:
                ref = _backend_ref(namespace, f"{INTERNAL_REF}write-{actual}")
                await self._backend.begin(ref, len(data), "")
                await self._backend.append(ref, data, 0)
                blob = await self._backend.commit(ref, len(data), actual)
            return await self._record(scope, blob, labels)

    async def incoming(self, size: int) -> str:
        """Where files to adopt are written."""
        return await self._backend.ingest_path_for(size)  # type: ignore[no-any-return]

    async def adopt(
        self, scope: Scope, path: str, digest: str, size: int, labels: Mapping[str, str] | None = None
    ) -> ContentInfo:
        """Take a verified file."""
        namespace_of(scope)
        validate_labels(labels or {})
        return await finished(self._adopt(scope, path, digest, size, labels or {}))

    async def _adopt(self, scope: Scope, path: str, digest: str, size: int, labels: Mapping[str, str]) -> ContentInfo:
        async with self._store.lock("content", digest):
            try:
                blob: BlobInfo = await self._backend.adopt(path, digest, size)
            except (AlreadyExists, NotFound):
                blob = await self._backend.info(digest)
            return await self._record(scope, blob, labels)

    async def settle(self) -> None:
        """At start: drop what a crash left of the daemon's own doing.

        Ingests that the last daemon began for itself, which nobody can resume; and blobs that it committed but did not
        come to record. Only blobs about as new as the newest record, or as the last daemon, are such: an old one without a
        record tells of records that were lost, and is for the operator to judge.
        """
        for status in await self._backend.statuses():
            if INTERNAL_REF in status.ref and status.started_at < self._store.began:
                await self._backend.abort(status.ref)

        def recorded(tx: Transaction) -> dict[str, int]:
            return {info.digest: info.updated_at for info in tx.scan(CONTENT)}

        known = await self._store.read(recorded, long=True)
        newest = max([self._store.last_began, *known.values()])
        for blob in await self._backend.walk():
            if blob.digest not in known and newest and newest - _RECENT < blob.created_at < self._store.began:
                await self._drop(blob.digest)

    async def _drop(self, digest: str) -> None:
        """Have a blob without a record removed."""

        def leave(tx: Transaction) -> None:
            if not tx.count(CONTENT, digest, index="by_digest"):
                self._store.tombstones.leave(tx, "content", digest)

        await self._store.write(leave)
        await self._store.tombstones.follow()

    async def left_ingests(self) -> list[tuple[str, IngestStatus]]:
        """Clients' ingests, with their namespaces."""
        found = []
        for status in await self._backend.statuses():
            namespace, _, ref = status.ref.partition("/")
            if not ref.startswith(INTERNAL_REF):
                found.append((namespace, msgspec.structs.replace(status, ref=ref)))
        return found

    async def abandon(self, namespace: str, status: IngestStatus) -> None:
        """Drop an ingest if nobody has written to it since. Raises NotFound, Unavailable while a writer has it open."""
        ref = _backend_ref(namespace, status.ref)
        if (await self._backend.status(ref)).updated_at != status.updated_at:
            raise Unavailable(f"the ingest {status.ref} is written to again")
        await self._backend.abort(ref)


def _get(tx: Transaction, namespace: str, digest: str) -> ContentInfo:
    info = tx.get(CONTENT, namespace, digest)
    if info is None:
        validate_digest(digest)
        raise not_found(tx, "blob", CONTENT, "by_digest", digest, namespace)
    return info


def _backend_ref(namespace: str, ref: str) -> str:
    return f"{namespace}/{ref}"
