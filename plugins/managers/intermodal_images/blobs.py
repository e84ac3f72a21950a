"""Blobs on their way into the store, from threads that read archives and directories."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from intermodal_core.contracts.managers.store import INTERNAL_REF, ContentInfo, Scope, Store
from intermodal_core.errors import AlreadyExists, IntermodalError

__all__ = ["Blobs", "Cancelled", "Writer"]

T = TypeVar("T")


class Cancelled(Exception):
    """The caller gave up; raised in the thread that writes."""


class Blobs:
    """What one import writes, in a scope that protects it. The methods without `async` are called from a thread other
    than the loop's.
    """

    def __init__(self, store: Store, scope: Scope, loop: asyncio.AbstractEventLoop) -> None:
        self._store = store
        self.scope = scope
        self._loop = loop
        self._session = secrets.token_hex(6)
        self._count = 0
        self._open: set[str] = set()
        self.stopped = False

    def stop(self) -> None:
        """Whatever thread works on this is to give up."""
        self.stopped = True

    def call(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """A coroutine's result, from the thread."""
        if self.stopped:
            raise Cancelled
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result()

    def writer(self, expected: str = "", total: int = 0) -> Writer:
        """Begin a blob; one that the namespace has already is none to be written (`Writer.known`)."""
        self._count += 1
        return Writer(self, f"{INTERNAL_REF}import-{self._session}-{self._count}", expected, total)

    async def begin(self, ref: str, total: int, expected: str) -> ContentInfo | None:
        """Open an ingest; the blob's record where there is nothing to write."""
        try:
            await self._store.content.begin(self.scope, ref, total, expected)
        except AlreadyExists:
            return await self._store.content.info(self.scope, expected)
        self._open.add(ref)
        return None

    async def append(self, ref: str, data: bytes) -> None:
        """Write at the end."""
        await self._store.content.append(self.scope, ref, data)

    async def commit(self, ref: str, size: int, expected: str) -> str:
        """Make the blob, or find that it is there; returns its digest."""
        try:
            info = await self._store.content.commit(self.scope, ref, size, expected)
        except AlreadyExists:
            self._open.discard(ref)
            return expected
        self._open.discard(ref)
        return info.digest

    async def put(self, data: bytes) -> str:
        """A small blob at once; returns its digest."""
        return (await self._store.content.write(self.scope, data)).digest

    async def close(self) -> None:
        """Drop what was begun."""
        for ref in list(self._open):
            await self._quietly(self._store.content.close(self.scope, ref))
            await self._quietly(self._store.content.abort(self.scope, ref))
        self._open.clear()

    async def _quietly(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except IntermodalError:
            pass


class Writer:
    """One blob being written from a thread."""

    def __init__(self, blobs: Blobs, ref: str, expected: str, total: int) -> None:
        self._blobs = blobs
        self._ref = ref
        self._expected = expected
        self._hash = None if expected else hashlib.sha256()
        self._size = 0
        self.known = blobs.call(lambda: blobs.begin(ref, total, expected))

    def write(self, data: bytes) -> int:
        """Append; a file's write as far as tarfile and compressors need it."""
        self._blobs.call(lambda: self._blobs.append(self._ref, data))
        if self._hash is not None:
            self._hash.update(data)
        self._size += len(data)
        return len(data)

    def commit(self) -> tuple[str, int]:
        """Digest and size of the finished blob."""
        size = self._size
        expected = self._expected if self._hash is None else f"sha256:{self._hash.hexdigest()}"
        return self._blobs.call(lambda: self._blobs.commit(self._ref, size, expected)), size
