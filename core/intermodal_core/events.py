"""The event bus: publish from anywhere, follow from any point that the journal still holds.

An event is in the journal before any subscriber gets it, so that a number which somebody saw is never given again, not
even after SIGKILL. Publishing costs the publisher an append to a list; all that was published since the loop's last
turn is one batch: one write, and one wake-up a subscriber.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from intermodal_core.errors import IntermodalError, InvalidArgument, Unavailable
from intermodal_core.filters import Predicate, compile_filters, resolver_of
from intermodal_core.journal import Cursor, Event, Journal

__all__ = ["Decoder", "Event", "EventBus", "Subscription"]

#: Turns an event's bytes into nested mappings, for filters on `event.FIELD`.
Decoder = Callable[[bytes], Mapping[str, Any]]

_RECENT = 4096  # ids that are remembered


class EventBus:
    """The bus over the journal in `directory`; `max_bytes` and `max_events` bound what is kept.

    The loop of the first subscriber, or of the first publisher that has one, is the loop that delivers.
    """

    def __init__(
        self,
        directory: Path,
        max_bytes: int = 32 << 20,
        max_events: int = 200_000,
        log: logging.Logger | None = None,
    ) -> None:
        self._log = log or logging.getLogger("intermodal.events")
        self._journal = Journal(directory, max_bytes, max_events, self._log)
        self._lock = threading.Lock()  # of the three lists below and the numbering
        self._writing = threading.RLock()  # held around the journal's writes, so that batches stay in order
        self._next = self._journal.next
        self._pending: list[Event] = []  # not in the journal yet
        self._written: list[Event] = []  # in the journal, not delivered yet
        self._scheduled = False
        self._recent: dict[str, tuple[int, int]] | None = None  # id -> sequence, timestamp; read when first needed
        self._loop: asyncio.AbstractEventLoop | None = None
        self._subscriptions: set[Subscription] = set()
        self._decoders: dict[str, Decoder] = {}
        self._decoded: dict[int, Mapping[str, Any]] = {}
        self._published = self._duplicates = 0
        self._closed = False

    @property
    def oldest(self) -> int:
        """The oldest number that can be replayed; the next one to come where nothing is kept."""
        return self._journal.oldest

    @property
    def newest(self) -> int:
        """The last number that was given, 0 before the first event."""
        return self._next - 1 if self._published else self._journal.newest

    def publish(self, namespace: str, topic: str, type_url: str, data: bytes, *, id: str = "") -> Event:
        """Tell all subscribers, from any thread. Returns the event, numbered; it never waits for a subscriber.

        An `id` that was seen recently (also before a restart) is not published again: the event returned has the number
        and time of the first. Without an id it gets one. Raises InvalidArgument for a topic that is no path of names
        ("/tasks/start"), and Unavailable once the bus is closed.
        """
        if not topic.startswith("/") or topic.endswith("/"):
            raise InvalidArgument(f"{topic!r} is no topic; write it as /kind/what")
        loop = self._loop
        if loop is None:
            loop = self._attach()
        with self._lock:
            if self._closed:
                raise Unavailable("the event bus is closed")
            timestamp = time.time_ns()
            if id:
                recent = self._recent_ids()
                if id in recent:
                    self._duplicates += 1
                    sequence, timestamp = recent[id]
                    return Event(sequence, id, timestamp, namespace, topic, type_url, data)
                if len(recent) >= _RECENT:
                    del recent[next(iter(recent))]
                recent[id] = (self._next, timestamp)
            event = Event(
                self._next, id or f"{timestamp:x}.{self._next:x}", timestamp, namespace, topic, type_url, data
            )
            self._next += 1
            self._published += 1
            self._pending.append(event)
            schedule, self._scheduled = not self._scheduled, True
        if loop is None:
            self.flush()
        elif schedule:
            self._schedule(loop)
        return event

    def before(self, timestamp: int) -> int:
        """What to give as `since` to get the kept events that are not older than `timestamp`, in ns since 1970."""
        self.flush()
        return self._journal.before(timestamp)

    def subscribe(
        self, filters: Sequence[str] = (), since: int | None = None, namespace: str | None = None, buffer: int = 1024
    ) -> Subscription:
        """The events after number `since`, the kept ones first, or from now on; those that any filter matches.

        Filters may name `namespace`, `topic`, and `event.FIELD` where a decoder is registered. Call it on the loop that
        will read. Raises InvalidArgument for a malformed filter, and OutOfRange, naming the oldest number that is kept,
        when not all after `since` is, or when `since` has not happened.
        """
        self._attach()
        predicate = compile_filters(filters) if any(filters) else None
        position = self._next - 1 if since is None else since
        cursor = None if since is None else self._journal.cursor(since)
        subscription = Subscription(self, predicate, namespace, position, cursor, buffer)
        self._subscriptions.add(subscription)
        return subscription

    def register_decoder(self, type_url: str, decode: Decoder) -> None:
        """Let filters see the fields of events whose type URL is `type_url`, or begins with it where none is nearer."""
        self._decoders[type_url] = decode

    def flush(self) -> None:
        """Return once all that was published is in the journal; from any thread. SIGKILL cannot take it then."""
        with self._writing:
            with self._lock:
                batch, self._pending = self._pending, []
            if batch:
                self._journal.append(batch)
            with self._lock:
                if self._subscriptions:
                    self._written += batch
                if self._loop is None:
                    self._scheduled = False

    def sync(self) -> None:
        """Return once all that was published is on the disk; a power failure cannot take it then. Raises OSError."""
        with self._writing:
            self.flush()
            fds = self._journal.unsynced()
        try:
            for fd in fds:
                os.fsync(fd)
        finally:
            for fd in fds:
                os.close(fd)

    def statistics(self) -> dict[str, Any]:
        """Numbers for people and metrics: counts since the start, what is kept, how far each subscriber lags."""
        return {
            "published": self._published,
            "duplicates": self._duplicates,
            "oldest": self.oldest,
            "newest": self.newest,
            "bytes": self._journal.size,
            "lags": sorted(subscription.lag for subscription in self._subscriptions),
        }

    def close(self) -> None:
        """Write what is pending and end all subscriptions; on their loop, or after it. Idempotent."""
        with self._lock:
            self._closed = True
        self.flush()
        for subscription in list(self._subscriptions):
            subscription._end()
        self._journal.close()

    def _attach(self) -> asyncio.AbstractEventLoop | None:
        if self._loop is None:
            with contextlib.suppress(RuntimeError):
                self._loop = asyncio.get_running_loop()
        return self._loop

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:  # that loop is closed, and its subscribers with it
            with self._lock:
                self._loop, self._scheduled = None, False
                self._subscriptions.clear()
            self.flush()

    def _deliver(self) -> None:
        with self._lock:
            self._scheduled = False
        self.flush()
        with self._lock:
            batch, self._written = self._written, []
        if batch:
            for subscription in list(self._subscriptions):
                subscription._offer(batch)

    def _recent_ids(self) -> dict[str, tuple[int, int]]:
        if self._recent is None:
            recent: dict[str, tuple[int, int]] = {}
            with (
                contextlib.suppress(IntermodalError),
                contextlib.closing(
                    self._journal.cursor(max(self._journal.oldest - 1, self._journal.newest - _RECENT))
                ) as cursor,
            ):
                while events := cursor.read():
                    recent.update((event.id, (event.sequence, event.timestamp)) for event in events)
            self._recent = recent
        return self._recent

    def fields(self, event: Event) -> Mapping[str, Any]:
        """An event's fields, decoded once for all who ask soon; none where no decoder is registered or it fails."""
        fields = self._decoded.get(event.sequence)
        if fields is None:
            fields = {}
            decode = self._decoder(event.type_url)
            if decode is not None:
                try:
                    fields = decode(event.data)
                except Exception as error:  # a stranger's code on a stranger's bytes
                    self._log.warning("event %d (%s) cannot be decoded: %s", event.sequence, event.type_url, error)
            if len(self._decoded) >= 1024:
                self._decoded.clear()
            self._decoded[event.sequence] = fields
        return fields

    def _decoder(self, type_url: str) -> Decoder | None:
        for end in range(len(type_url), 0, -1):
            if (decode := self._decoders.get(type_url[:end])) is not None:
                return decode
        return None


class Subscription:
    """An async iterator of events; ends when it or the bus is closed. One reader at a time; `async with` closes it.

    A reader slower than its buffer goes on from the journal and notices nothing, but for its `lag`; OutOfRange is
    raised by iteration when the journal no longer holds what would come next.
    """

    def __init__(
        self,
        bus: EventBus,
        predicate: Predicate | None,
        namespace: str | None,
        position: int,
        cursor: Cursor | None,
        buffer: int,
    ) -> None:
        self._bus = bus
        self._predicate = predicate
        self._namespace = namespace
        self._cursor = cursor  # None: following live
        self._buffer = buffer
        self._taken = position  # the last number that came out of batches or the cursor
        self._ready: deque[Event] = deque()
        self._batches: deque[list[Event]] = deque()
        self._buffered = 0
        self._waiter: asyncio.Future[None] | None = None
        self._behind = False  # what was in the buffer is to be read from the journal
        self._ended = False

    @property
    def position(self) -> int:
        """The number to give as `since` to go on after the event that was returned last."""
        return self._ready[0].sequence - 1 if self._ready else self._taken

    @property
    def lag(self) -> int:
        """How many numbers the reader is behind."""
        return max(0, self._bus.newest - self.position)

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Event:
        while not self._ready:
            await self._fill()
        return self._ready.popleft()

    async def batch(self) -> list[Event]:
        """All that is there, after waiting for at least one event; none at the end. Raises OutOfRange as iteration does."""
        try:
            while not self._ready:
                await self._fill()
        except StopAsyncIteration:
            return []
        events = list(self._ready)
        self._ready.clear()
        return events

    async def aclose(self) -> None:
        """End it; a reader that waits sees the end. Idempotent."""
        self._end()

    async def __aenter__(self) -> Subscription:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._end()

    async def _fill(self) -> None:
        if self._ended:
            raise StopAsyncIteration
        if self._behind:
            self._cursor = self._bus._journal.cursor(self._taken)
            self._behind = False
        if self._cursor is not None:
            events = self._cursor.read()
            if events:
                self._take(events)
                await asyncio.sleep(0)  # a long replay is not alone on the loop
                return
            # The end of the journal, on the loop that delivers: what is not in there yet will be offered.
            self._cursor.close()
            self._cursor = None
        if self._batches:
            batch = self._batches.popleft()
            self._buffered -= len(batch)
            self._take(batch)
            return
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _take(self, events: list[Event]) -> None:
        if events[0].sequence <= self._taken:  # read from the journal before it was offered
            events = [event for event in events if event.sequence > self._taken]
        if events:
            self._taken = events[-1].sequence
            plain = self._namespace is None and self._predicate is None
            self._ready.extend(events if plain else filter(self._matches, events))

    def _matches(self, event: Event) -> bool:
        if self._namespace is not None and event.namespace != self._namespace:
            return False
        if self._predicate is None:
            return True

        def resolve(path: tuple[str, ...]) -> tuple[str, bool]:
            if path in (("namespace",), ("topic",)):
                value = event.namespace if path[0] == "namespace" else event.topic
                return value, bool(value)
            if path[0] == "event" and len(path) > 1:
                return resolver_of(self._bus.fields(event))(path[1:])
            return "", False

        return self._predicate(resolve)

    def _offer(self, batch: list[Event]) -> None:
        """Called on the loop, with what is in the journal already."""
        if self._cursor is None and not self._behind:
            # One batch of any size is fine: its events are shared with the other subscribers.
            if self._batches and self._buffered + len(batch) > self._buffer:
                self._batches.clear()
                self._buffered = 0
                self._behind = True
            else:
                self._batches.append(batch)
                self._buffered += len(batch)
        self._wake()

    def _end(self) -> None:
        self._ended = True
        self._ready.clear()
        self._batches.clear()
        self._bus._subscriptions.discard(self)
        if self._cursor is not None:
            self._cursor.close()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            with contextlib.suppress(RuntimeError):  # its loop is closed
                self._waiter.set_result(None)
