"""The collector: mark on a consistent read, sweep in one write that checks every candidate against the writes since.

Writes that commit after the mark's view are noted, each record that they put. The sweep, a write like any other and
so alone, spares what those records are of and refer to, and all that this protects in turn. What is left loses its record; a
blob that no namespace sees any more, and each snapshot, gets a tombstone, which the backends' removal follows.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from intermodal_api.containerd.events import image_pb2
from intermodal_core.contracts.content import IngestStatus
from intermodal_core.contracts.managers.collector import Collected, Finding, Garbage, Protection, Rebuilt, Use
from intermodal_core.contracts.managers.store import ContentInfo
from intermodal_core.contracts.metadata import Table, Transaction
from intermodal_core.errors import IntermodalError, InvalidArgument, NotFound
from intermodal_oci.references import normalise

from intermodal_store.checking import check
from intermodal_store.marking import Marked
from intermodal_store.names import now
from intermodal_store.references import Node, forward, node_of
from intermodal_store.tables import CONTENT, IMAGES
from intermodal_store.usage import usage

if TYPE_CHECKING:
    from intermodal_store.store import Store

__all__ = ["Collector"]

T = TypeVar("T")
R = TypeVar("R", bound=msgspec.Struct)

log = logging.getLogger("intermodal.collector")

#: ns that an ingest of a client which named no lease is kept after its last byte.
_INGEST = 24 * 3600 * 1_000_000_000


class Collector:
    """Implements `intermodal_core.contracts.managers.collector.Collector`."""

    def __init__(self, store: Store, content: Any) -> None:
        self._store = store
        self._content = content
        self.rebuilt: Rebuilt | None = None
        self._one = asyncio.Lock()
        self._works: set[asyncio.Future[Collected]] = set()
        self._put: list[Any] | None = None  # while a collection runs: the records that writes put
        self.on_change: Callable[[int], None] | None = None
        self.writes = 0

    def watched(self, fn: Callable[[Transaction], T]) -> Callable[[Transaction], T]:
        """`fn` with the records that it puts noted while a collection runs."""

        def run(tx: Transaction) -> T:
            self.writes += 1
            put = self._put
            return fn(tx if put is None else _Watched(tx, put))

        return run

    def changed(self, end: int = 0) -> None:
        """Something went that may leave garbage; or, with its time, something got an end."""
        if self.on_change is not None:
            self.on_change(end)

    async def collect(self, *, grace: float = 0.0, dry_run: bool = False) -> Collected:
        """One collection of all."""
        return await self._collect(grace, dry_run, None)

    async def collect_only(self, nodes: Iterable[Node]) -> None:
        """Collect these, where nothing protects them."""
        await self._collect(0.0, False, set(nodes))

    async def settled(self) -> None:
        """When no collection runs."""
        if self._works:
            await asyncio.wait(self._works)

    async def _collect(self, grace: float, dry_run: bool, only: set[Node] | None) -> Collected:
        # One that is given up goes on to its end: writes are noted for as long as its sweep may come.
        work = asyncio.ensure_future(self._run(grace, dry_run, only))
        self._works.add(work)
        work.add_done_callback(self._works.discard)
        return await asyncio.shield(work)

    async def _run(self, grace: float, dry_run: bool, only: set[Node] | None) -> Collected:
        async with self._one:
            began = time.perf_counter()
            put = self._put = []
            try:
                # A write that was begun before is not noted, and is in the view once this one is through.
                await self._store.write(lambda tx: None)
                marked = await self._mark(int(grace * 1e9), "collector.sweep")
                dead = [node for node in marked.garbage() if only is None or node in only]
                swept = time.perf_counter()
                if not dry_run and dead:
                    dead = await self._store.write(lambda tx: self._sweep(tx, marked, dead, put))
            finally:
                self._put = None
            garbage = marked.tell(dead)
            if only is None:
                garbage += await self._ingests(marked, dry_run)
        ended = time.perf_counter()
        if dead and not dry_run:
            self._store.later(self._store.tombstones.follow())
            log.info("collected %d objects in %.3f s", len(dead), ended - began)
        grown = marked.oldest_young + int(grace * 1e9) if marked.oldest_young else 0
        kept = len(marked.records) - len(dead)
        return Collected(garbage, kept, swept - began, ended - swept, marked.next_expiry, grown)

    async def _mark(self, grace: int = 0, before: str = "") -> Marked:
        """`before`: the step that follows."""
        at = now()

        def mark(tx: Transaction) -> Marked:
            marked = Marked(tx, self._store.leases.held(), at, at - grace if grace else at)
            if before:
                sys.audit("intermodal.step", before)
            return marked

        return await self._store.read(mark, long=True)

    def _sweep(self, tx: Transaction, marked: Marked, dead: list[Node], put: list[Any]) -> list[Node]:
        """Drop the records of what is still garbage; returns these nodes."""
        spared = marked.below([*self._store.leases.held(), *(node for record in put for node in _about(record))])
        gone = [node for node in dead if node not in spared]
        # Blobs of which another record may be left; to ask for each takes longer than all the rest.
        going = set(gone)
        seen = {node.key for node in marked.records if node.type == "content" and node not in going}
        seen |= {record.digest for record in put if isinstance(record, ContentInfo)}
        for node in gone:
            if node.type != "content":
                self._drop(tx, node)
            elif tx.delete(CONTENT, node.namespace, node.key) and (
                node.key not in seen or not tx.count(CONTENT, node.key, index="by_digest")
            ):
                # No event tells of it: of what is collected, as of containerd's, there may be ten thousand at once.
                self._store.tombstones.leave(tx, "content", node.key)
        return gone

    def _drop(self, tx: Transaction, node: Node) -> None:
        type, namespace, key = node
        if type == "images":
            if tx.delete(IMAGES, namespace, key):
                self._store.emit(tx, namespace, "/images/delete", image_pb2.ImageDelete(name=key))
        elif type == "leases":
            self._store.leases.end(tx, namespace, key)
        else:
            try:
                self._store.snapshots.forget(tx, namespace, type.partition("/")[2], key)
            except IntermodalError as error:  # gone meanwhile, or it has a child that was spared
                log.debug("%s: %s", node, error)

    async def _ingests(self, marked: Marked, dry_run: bool) -> tuple[Garbage, ...]:
        """Ingests that no lease names and nobody has written to for a day."""
        found: list[Garbage] = []
        for namespace, status in await self._store.content.left_ingests():
            fresh = status.updated_at > now() - _INGEST
            if fresh or Node("ingests", namespace, status.ref) in marked.live:
                continue
            if dry_run or await self._abort(namespace, status):
                why = "no lease names it, and nobody has written to it for a day"
                found.append(Garbage("ingests", namespace, status.ref, status.offset, why))
        return tuple(found)

    async def _abort(self, namespace: str, status: IngestStatus) -> bool:
        try:
            await self._store.content.abandon(namespace, status)
        except IntermodalError:
            return False
        return True

    async def usage(self) -> list[Use]:
        """Where the bytes are."""
        return await usage(self._store, await self._mark())

    async def check(self, *, deep: bool = False) -> list[Finding]:
        """What does not fit."""
        return await check(self._store, self._content, await self._mark(), deep)

    async def explain(self, key: str, namespace: str = "") -> list[Protection]:
        """Why objects stay or go."""
        marked = await self._mark()
        nodes = marked.records
        exact = {key, _full_name(key)}
        everywhere = [node for node in nodes if node.key in exact] or [
            node for node in nodes if key and node.key.startswith((key, f"sha256:{key}"))
        ]
        found = [node for node in everywhere if namespace in ("", node.namespace)]
        if not found:
            where = f"in the namespace {namespace}" if namespace else "in any namespace"
            others = ", ".join(sorted({node.namespace for node in everywhere}))
            raise NotFound(
                f"there is no blob, snapshot, image, container or lease {key} {where}"
                + (f"; it is in the namespace {others}" if others else "")
            )
        why = {(each.type, each.namespace, each.key): each.why for each in marked.tell(marked.garbage())}
        return [Protection(*node, marked.chain(node), why.get(node, "")) for node in sorted(found)]


def _full_name(key: str) -> str:
    """The image that a short reference means."""
    try:
        return normalise(key)
    except InvalidArgument:
        return key


def _about(record: Any) -> Iterator[Node]:
    """What a record that was put is of, and what it refers to."""
    node = node_of(record)
    if node is not None:
        yield node
        yield from (target for target, _ in forward(record))


class _Watched:
    """A transaction that notes what is put."""

    def __init__(self, tx: Transaction, put: list[Any]) -> None:
        self._tx = tx
        self._put = put
        self.get, self.delete, self.scan, self.count = tx.get, tx.delete, tx.scan, tx.count

    def put(self, table: Table[R], record: R) -> None:
        self._put.append(record)
        self._tx.put(table, record)
