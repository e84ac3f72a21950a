"""Tombstones: objects of backends that are to go.

A tombstone is left in the transaction that drops the last record of an object, so that a crash in between loses nothing, and
the removal from the backend follows tombstones only. Whoever records a blob again takes its tombstone away in that
transaction, under the blob's lock, which the removal holds as well: it is cancelled, or was waited for. The keys of snapshots'
objects are unique for ever.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from intermodal_core.contracts.metadata import Transaction
from intermodal_core.errors import FailedPrecondition, IntermodalError, NotFound

from intermodal_store.tables import TOMBSTONES, Tombstone

if TYPE_CHECKING:
    from intermodal_store.store import Store

__all__ = ["Tombstones"]

log = logging.getLogger("intermodal.store")

#: Objects that go between two looks at whether the daemon ends.
_CHUNK = 128


class Tombstones:
    """Those of all backends; `content` is the content backend."""

    def __init__(self, store: Store, content: Any) -> None:
        self._store = store
        self._content = content
        self._one: dict[str, asyncio.Lock] = {}
        self._numbers = itertools.count(time.time_ns())
        self._closing = False

    def leave(self, tx: Transaction, kind: str, object: str) -> None:
        """The object (kind `content` or `snapshots/NAME`) has no record from this transaction on."""
        tx.put(TOMBSTONES, Tombstone(kind, object, next(self._numbers)))

    def cancel(self, tx: Transaction, kind: str, object: str) -> None:
        """It has one again."""
        tx.delete(TOMBSTONES, kind, object)

    async def follow(self, kind: str = "") -> None:
        """Remove what has a tombstone, of one kind or all. What cannot be removed now is tried again the next time.

        One backend that does not answer keeps no other waiting.
        """
        kinds = await self._store.read(lambda tx: {row.kind for row in tx.scan(TOMBSTONES)}, long=True)
        await asyncio.gather(*(self._follow(each) for each in sorted(kinds) if kind in ("", each)))

    async def _follow(self, kind: str) -> None:
        async with self._one.setdefault(kind, asyncio.Lock()):
            left = await self._store.read(lambda tx: list(tx.scan(TOMBSTONES, kind, index="in_order")), long=True)
            while left and not self._closing:
                chunk, left = left[:_CHUNK], left[_CHUNK:]
                if kind == "content":
                    await self._blobs(chunk)
                else:
                    left += await self._snapshots(kind.partition("/")[2], chunk, retry=bool(left))

    def close(self) -> None:
        """Leave the rest to the next start."""
        self._closing = True

    async def _blobs(self, rows: Sequence[Tombstone]) -> None:
        async with AsyncExitStack() as stack:
            for row in rows:
                await stack.enter_async_context(self._store.lock("content", row.object))
            standing = await self._store.read(
                lambda tx: [row for row in rows if tx.get(TOMBSTONES, row.kind, row.object) is not None]
            )
            removed = await asyncio.gather(*(self._blob(row.object) for row in standing))
            await self._forget(row for row, gone in zip(standing, removed, strict=True) if gone)

    async def _blob(self, digest: str) -> bool:
        try:
            await self._content.delete(digest)
        except NotFound:
            pass
        except IntermodalError as error:
            log.warning("the blob %s is removed later: %s", digest, error)
            return False
        self._store.content.uncache(digest)
        return True

    async def _snapshots(self, snapshotter: str, rows: Sequence[Tombstone], retry: bool) -> list[Tombstone]:
        """Returns those that have children still, of which some may go with the next ones."""
        try:
            backend = await self._store.registry.require("snapshotters", snapshotter)
        except IntermodalError as error:
            log.warning("%d snapshots of %s are removed later: %s", len(rows), snapshotter, error)
            return []
        gone, parents = [], []
        for row in rows:
            try:
                await backend.remove(row.object)
            except NotFound:
                pass
            except FailedPrecondition as error:
                if retry:
                    parents.append(row)
                else:
                    log.warning("%s of %s is removed later: %s", row.object, snapshotter, error)
                continue
            except IntermodalError as error:
                log.warning("%s of %s is removed later: %s", row.object, snapshotter, error)
                continue
            gone.append(row)
        await self._forget(gone)
        return parents

    async def _forget(self, rows: Iterable[Tombstone]) -> None:
        done = list(rows)

        def forget(tx: Transaction) -> None:
            for row in done:
                tx.delete(TOMBSTONES, row.kind, row.object)

        if done:
            await self._store.write(forget)
