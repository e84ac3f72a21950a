"""The store: one attribute a subject, and what they share."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from intermodal_core.background import Background
from intermodal_core.contracts.managers.policy import Policy, Subject
from intermodal_core.contracts.managers.store import Choice, Image, Scope
from intermodal_core.contracts.metadata import MetadataStore, Table, Transaction
from intermodal_core.errors import NotFound
from intermodal_core.events import EventBus
from intermodal_core.outbox import Outbox
from intermodal_core.registry import Registry

from intermodal_store.collector import Collector
from intermodal_store.containers import Containers
from intermodal_store.content import Content
from intermodal_store.doubts import Doubts
from intermodal_store.images import Images
from intermodal_store.leases import Leases
from intermodal_store.names import now
from intermodal_store.namespaces import Namespaces
from intermodal_store.pinning import pin, pinned
from intermodal_store.rebuilding import rebuild
from intermodal_store.snapshots import Snapshots
from intermodal_store.tables import ALL, CONTAINERS, NAMESPACES, STARTS, Start
from intermodal_store.tombstones import Tombstones

__all__ = ["Store"]

T = TypeVar("T")

log = logging.getLogger("intermodal.store")

#: Seconds from one look at what tombstones are left to the next, however often plugins change.
_BETWEEN = 1.0
#: Seconds for what goes on in the background when the daemon ends.
_LEAVING = 5.0


class Store:
    """Implements `intermodal_core.contracts.managers.store.Store`.

    `policy` is the policy manager; `registry` gives snapshotters by name.
    """

    def __init__(
        self, metadata: MetadataStore, content: Any, policy: Policy, registry: Registry, events: EventBus
    ) -> None:
        metadata.declare(*ALL)
        self._metadata = metadata
        self._content = content
        self._outbox = Outbox(metadata, events)
        self._locks: dict[tuple[str, ...], tuple[asyncio.Lock, int]] = {}
        self._background = Background(log)
        self.began = now()  # what is older was made by another daemon
        self.last_began = 0
        self.policy = policy
        self.registry = registry
        self.namespaces = Namespaces(self)
        self.images = Images(self)
        self.containers = Containers(self)
        self.content = Content(self, content)
        self.snapshots = Snapshots(self)
        self.leases = Leases(self)
        self.tombstones = Tombstones(self, content)
        self.doubts = Doubts(registry)
        self.collector = Collector(self, content)

    async def __aenter__(self) -> Store:
        """Publish what was committed but not yet told when the daemon last ended."""
        await self._outbox.recover()
        if self._metadata.rebuilt_from:
            self.collector.rebuilt = await rebuild(self, self._content, self._metadata.rebuilt_from)
        self.last_began = await self.write(self._start)
        if self.collector.rebuilt is None:
            self.later(self.content.settle())
        self.later(self.snapshots.settle())
        self.later(self.tombstones.follow())
        self._watching = asyncio.create_task(self._watch())
        return self

    async def _watch(self) -> None:
        """A backend that answers again removes what it could not."""
        change = self.registry.change()
        while True:
            await change.wait()
            change = self.registry.change()
            self.later(self.tombstones.follow())
            await asyncio.sleep(_BETWEEN)

    def _start(self, tx: Transaction) -> int:
        """Record this start; the time of the one before, 0 where there was none."""
        last = tx.get(STARTS, "daemon")
        tx.put(STARTS, Start("daemon", self.began))
        return last.at if last else 0

    async def __aexit__(self, *_: object) -> None:
        """Finish what goes on in the background."""
        self._watching.cancel()
        await self.doubts.close()
        self.tombstones.close()
        try:
            async with asyncio.timeout(_LEAVING):
                await self.collector.settled()
                await self.settled()
        except TimeoutError:  # a backend that does not answer; the next start finds what is left
            await self._background.cancel()
        await self._outbox.close()

    async def read(self, fn: Callable[[Transaction], T], *, long: bool = False) -> T:
        """As `MetadataStore.read`."""
        return await self._metadata.read(fn, long=long)

    async def write(self, fn: Callable[[Transaction], T]) -> T:
        """As `MetadataStore.write`; then the events that `fn` emitted are published."""
        return await self._outbox.write(self.collector.watched(fn))

    def rebuilt(self) -> None:
        """What was found after a loss is recorded."""
        if self._metadata.rebuilt_from:
            self._metadata.rebuilt()

    async def check_metadata(self) -> list[str]:
        """As `MetadataStore.check`."""
        return await self._metadata.check()

    def declare(self, *tables: Table[Any]) -> None:
        """As `MetadataStore.declare`."""
        self._metadata.declare(*tables)

    def emit(self, tx: Transaction, namespace: str, topic: str, message: Any) -> None:
        """Record an event in the transaction that it tells of."""
        self._outbox.emit(tx, namespace, topic, message.DESCRIPTOR.full_name, message.SerializeToString())

    def put_image(self, tx: Transaction, image: Image) -> Image:
        """Create or replace an image within a transaction."""
        return self.images.put(tx, Scope(image.namespace), image)

    def forget_container(self, tx: Transaction, namespace: str, id: str) -> None:
        """Drop a container and its snapshot within a transaction; `removed` is to follow."""
        container = tx.get(CONTAINERS, namespace, id)
        if container is None:
            return
        self.containers.remove(tx, namespace, id)
        if container.snapshot_key:
            with contextlib.suppress(NotFound):
                self.snapshots.forget(tx, namespace, container.snapshotter, container.snapshot_key)

    def removed(self) -> None:
        """What a transaction has dropped may go from the backends, and what only it needed be collected."""
        self.later(self.tombstones.follow())
        self.collector.changed()

    async def pin(self, namespace: str, image: str, labels: Mapping[str, str], asked: str) -> Choice:
        """The runtime chosen for a container, with what it is on this machine."""
        return await self.pin_to(*await self.choose("runtime", namespace, image, labels, asked))

    async def pin_to(self, instance: str, why: str = "") -> Choice:
        """What a runtime is now on this machine."""
        return await pin(self.registry, instance, why)

    def capabilities(self, choice: Choice) -> tuple[str, ...]:
        """Of the pinned runtime's plugin, once it is ready."""
        for record in self.registry.records("runtimes"):
            if record.plugin is not None and choice.plugin in (record.plugin_id, ""):
                return record.plugin.capabilities
        return ()

    async def runtime(self, choice: Choice) -> Any:
        """The runtime that was pinned."""
        return await pinned(self.registry, choice)

    async def choose(
        self,
        subject: Subject,
        namespace: str,
        image: str = "",
        labels: Mapping[str, str] | None = None,
        asked: str = "",
        *,
        runtime: str = "",
    ) -> tuple[str, str]:
        """What the policy manager chooses, with what the namespace's record says."""
        given = await self.read(lambda tx: tx.get(NAMESPACES, namespace)) if namespace else None
        return await self.policy.choose(
            subject, namespace, image, labels, asked, runtime=runtime, given=given.labels if given else None
        )

    # What the subjects share.

    @asynccontextmanager
    async def lock(self, *key: str) -> AsyncIterator[None]:
        """One at a time for each key."""
        lock, users = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[key]
            if users == 1:
                del self._locks[key]
            else:
                self._locks[key] = (lock, users - 1)

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it in the background; a start finds what a crash keeps from being done."""
        self._background.begin(work)

    async def settled(self) -> None:
        """When all that goes on in the background now has been done."""
        await self._background.settled()
