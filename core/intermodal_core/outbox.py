"""The outbox: a state event is a row of the transaction that it tells of, so neither is ever there without the other.

    def change(tx):
        tx.put(IMAGES, image)
        outbox.emit(tx, namespace, "/images/create", type_url, data)
    await outbox.write(change)

A row is removed only once its event is on the journal's disk. After a crash `recover` publishes what is left, with the same
ids, which the bus knows: at least once, and hardly ever twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import msgspec

from intermodal_core.background import Background
from intermodal_core.contracts.metadata import MetadataStore, Table, Transaction
from intermodal_core.errors import IntermodalError, Internal
from intermodal_core.events import EventBus

__all__ = ["Outbox"]

T = TypeVar("T")

_DELAY = 0.2  # seconds that published rows may wait for others to be removed with
_BATCH = 64  # published rows that are removed without waiting


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
        self._emitted: list[_Row] | None = None  # by the write that runs now; writes run one after the other
        self._decided: dict[int, _Row | None] = {}  # by number: committed, or undone
        self._next = 1
        self._published: set[_Key] = set()  # published, and the row is still there
        self._removal: asyncio.Task[None] | None = None
        self._full = asyncio.Event()
        self._deciding = Background(self._log)

    async def write(self, fn: Callable[[Transaction], T]) -> T:
        """As the store's `write`; what `fn` emitted is published after the commit, in the order of the commits.

        A caller that is cancelled does not know the outcome; the events follow it all the same.
        """
        emitted: list[_Row] = []

        def collecting(tx: Transaction) -> T:
            self._emitted = emitted
            try:
                return fn(tx)
            finally:
                self._emitted = None

        try:
            result = await self._store.write(collecting)
        except asyncio.CancelledError:
            self._deciding.begin(self._find_out(emitted))
            raise
        except BaseException:
            self._written(emitted, committed=False)
            raise
        self._written(emitted, committed=True)
        return result

    def emit(self, tx: Transaction, namespace: str, topic: str, type_url: str, data: bytes) -> str:
        """Publish this if, and after, the transaction commits. Returns the event's id.

        Raises Internal outside of a function given to `write`.
        """
        if self._emitted is None:
            raise Internal(f"{topic} was emitted outside of a write of the outbox: nobody would publish it")
        row = _Row(self._epoch, next(self._numbers), namespace, topic, type_url, data)
        self._emitted.append(row)
        tx.put(self._table, row)
        return row.id

    async def _find_out(self, emitted: list[_Row]) -> None:
        """What came of a write that nobody awaits any more: it is decided when a later one is."""

        def there(tx: Transaction) -> bool:
            return any(tx.get(self._table, row.epoch, row.number) is not None for row in emitted)

        committed = False
        try:
            committed = await self._store.write(there)
        finally:
            self._written(emitted, committed)

    def _written(self, emitted: list[_Row], committed: bool) -> None:
        for row in emitted:
            self._decided[row.number] = row if committed else None
        # A write that was committed later may be heard of first.
        while self._next in self._decided:
            decided = self._decided.pop(self._next)
            self._next += 1
            if decided is not None:
                self._publish(decided)

    def _publish(self, row: _Row) -> None:
        try:
            self._bus.publish(row.namespace, row.topic, row.type_url, row.data, id=row.id)
        except IntermodalError as error:
            self._log.warning("the event %s is told at the next start: %s", row.id, error)
            return
        self._published.add((row.epoch, row.number))
        self._begin_removal()
        if len(self._published) >= _BATCH:
            self._full.set()

    async def recover(self) -> None:
        """At start, before the first `write`: publish what a crash left, and remove it. Raises what the store raises."""
        for row in await self._store.read(lambda tx: list(tx.scan(self._table)), long=True):
            if row.epoch != self._epoch:
                self._publish(row)
        await self._settle()

    async def close(self) -> None:
        """Remove what was published. A failure is logged; those rows are published again at the next start."""
        await self._settle()

    async def _settle(self) -> None:
        await self._deciding.settled()
        self._full.set()
        self._begin_removal()
        if self._removal is not None:
            await self._removal

    def _begin_removal(self) -> None:
        if self._published and (self._removal is None or self._removal.done()):
            self._removal = asyncio.get_running_loop().create_task(self._remove_later())

    async def _remove_later(self) -> None:
        """Ends with no published row left, or at a failure; then the next event begins anew."""
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
