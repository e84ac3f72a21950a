"""The outbox: a state event is a row of the transaction that it tells of, so neither is ever there without the other.

    def change(tx):
        tx.put(IMAGES, image)
        outbox.emit(tx, namespace, "/images/create", type_url, data)
    await store.write(change)
    await outbox.flush()

A row is removed only once its event is on the journal's disk. After a crash `recover` publishes what is left, with the same
ids, which the bus knows: at least once, and hardly ever twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from functools import partial

import msgspec

from intermodal_core.contracts.metadata import MetadataStore, Table, Transaction
from intermodal_core.errors import IntermodalError
from intermodal_core.events import EventBus

__all__ = ["Outbox"]

_DELAY = 0.2  # seconds that published rows may wait for others to be removed with
_BATCH = 64  # published rows that are removed without waiting: `flush` reads past them


class _Row(msgspec.Struct, frozen=True):
    epoch: int  # ns since 1970 when the outbox was made
    number: int  # by order of emission, which is the order of commits
    namespace: str
    topic: str
    type_url: str
    data: bytes

    @property
    def id(self) -> str:
        return f"{self.epoch:x}.{self.number:x}"


_Key = tuple[int, int]


class Outbox:
    """The outbox of `store` for `bus`: one table, `outbox`, which it declares. All but `emit` belongs to the loop."""

    def __init__(self, store: MetadataStore, bus: EventBus, log: logging.Logger | None = None) -> None:
        self._store = store
        self._bus = bus
        self._log = log or logging.getLogger("intermodal.events")
        self._table: Table[_Row] = Table("outbox", _Row, ("epoch", "number"))
        store.declare(self._table)
        self._epoch = time.time_ns()
        self._numbers = itertools.count(1)
        self._flushing = asyncio.Lock()
        self._published: set[_Key] = set()  # published, and the row is still there
        self._removal: asyncio.Task[None] | None = None
        self._full = asyncio.Event()

    def emit(self, tx: Transaction, namespace: str, topic: str, type_url: str, data: bytes) -> str:
        """Within a write transaction: publish this if, and after, it commits. Returns the event's id."""
        row = _Row(self._epoch, next(self._numbers), namespace, topic, type_url, data)
        tx.put(self._table, row)
        return row.id

    async def flush(self) -> None:
        """Publish what was committed and is not published yet, in the order of the commits.

        Rows are removed later, in the background, many in one write. Raises what reading the store raises.
        """
        async with self._flushing:
            for row in await self._store.read(lambda tx: list(tx.scan(self._table))):
                key = (row.epoch, row.number)
                if key not in self._published:
                    self._bus.publish(row.namespace, row.topic, row.type_url, row.data, id=row.id)
                    self._published.add(key)
        if self._published and (self._removal is None or self._removal.done()):
            self._removal = asyncio.create_task(self._remove_later())
        if len(self._published) >= _BATCH:
            self._full.set()

    async def recover(self) -> None:
        """At start, before the first `emit`: publish what a crash left, and remove it. Raises what the store raises."""
        await self.flush()
        self._full.set()
        if self._removal is not None:
            await self._removal

    async def close(self) -> None:
        """Publish and remove what is left. A failure to remove is logged; the rows are published again at the next start."""
        with contextlib.suppress(IntermodalError):
            await self.recover()

    async def _remove_later(self) -> None:
        """Ends with no published row left, or at a failure; then the next `flush` begins anew."""
        while self._published:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._full.wait(), _DELAY)
            self._full.clear()
            keys = sorted(self._published)
            try:
                await asyncio.to_thread(self._bus.sync)
                await self._store.write(partial(self._remove, keys))
            except (IntermodalError, OSError) as error:
                self._log.warning("published events stay in the outbox for now: %s", error)
                return
            self._published.difference_update(keys)

    def _remove(self, keys: list[_Key], tx: Transaction) -> None:
        for key in keys:
            tx.delete(self._table, *key)
