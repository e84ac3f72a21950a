"""Leases: recorded here, honoured by the collector; and holds, the daemon's own, which are in memory alone.

What the daemon itself makes it unmakes after a crash by its operations, so a hold need not outlive it, and costs no write.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from intermodal_core.contracts.managers.store import INTERNAL_REF, Lease, Resource, Scope
from intermodal_core.contracts.metadata import Transaction
from intermodal_core.errors import AlreadyExists, InvalidArgument, NotFound
from intermodal_oci.references import validate_digest, validate_labels

from intermodal_store.fields import selected
from intermodal_store.names import enter, namespace_of, now
from intermodal_store.references import Node, expiry
from intermodal_store.tables import LEASES, RESOURCES, LeaseResource

if TYPE_CHECKING:
    from intermodal_store.store import Store

__all__ = ["Leases"]


class Leases:
    """Implements `intermodal_core.contracts.managers.store.Leases`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._holds: dict[str, _Hold] = {}

    @asynccontextmanager
    async def hold(self, scope: Scope, *, tidy: bool = False) -> AsyncIterator[Scope]:
        """Protect what is made in the scope that is yielded, for as long as the block lasts."""
        id = f"{INTERNAL_REF}{secrets.token_hex(8)}"
        hold = self._holds[id] = _Hold(scope)
        try:
            yield Scope(scope.namespace, id)
        except BaseException:
            del self._holds[id]
            if tidy and hold.made:
                await asyncio.shield(self._store.collector.collect_only(hold.made))
            raise
        del self._holds[id]
        self._store.collector.changed()

    def held(self) -> list[Node]:
        """What holds protect now. May be called on any thread."""
        return [node for hold in list(self._holds.values()) for node in list(hold.nodes)]

    def protect(self, tx: Transaction, scope: Scope, type: str, id: str, made: bool = True) -> None:
        """Let the scope's lease or hold protect what was made, or was found, in the transaction that records it.

        Raises NotFound when there is no such lease.
        """
        if not scope.lease:
            return
        hold = self._holds.get(scope.lease)
        if hold is not None:
            node = Node(type, scope.namespace, id)
            hold.nodes.add(node)
            if made:
                hold.made.add(node)
            self.protect(tx, hold.scope, type, id)
            return
        if tx.get(LEASES, scope.namespace, scope.lease) is None:
            raise NotFound(f"there is no lease {scope.lease} in the namespace {scope.namespace}")
        tx.put(RESOURCES, LeaseResource(scope.namespace, scope.lease, type, id))

    async def create(self, scope: Scope, id: str, labels: Mapping[str, str]) -> Lease:
        """Make one."""
        namespace = namespace_of(scope)
        validate_labels(labels)
        lease = Lease(namespace, id or f"{now()}-{secrets.token_hex(4)}", dict(labels), now())

        def create(tx: Transaction) -> Lease:
            if tx.get(LEASES, namespace, lease.id) is not None:
                raise AlreadyExists(f"the lease {lease.id} is in the namespace {namespace} already")
            enter(tx, scope)
            tx.put(LEASES, lease)
            return lease

        created = await self._store.write(create)
        if end := expiry(created.labels):
            self._store.collector.changed(end)
        return created

    async def delete(self, scope: Scope, id: str) -> None:
        """End one; what it alone protected may be collected."""
        namespace = namespace_of(scope)

        def delete(tx: Transaction) -> None:
            _get(tx, namespace, id)
            self.end(tx, namespace, id)

        await self._store.write(delete)
        self._store.collector.changed()

    def end(self, tx: Transaction, namespace: str, id: str) -> None:
        """End one within a transaction."""
        for resource in list(tx.scan(RESOURCES, namespace, id)):
            tx.delete(RESOURCES, namespace, id, resource.type, resource.id)
        tx.delete(LEASES, namespace, id)

    async def select(self, scope: Scope, filters: Sequence[str] = ()) -> list[Lease]:
        """All that match."""
        namespace = namespace_of(scope)
        return await self._store.read(lambda tx: selected(tx.scan(LEASES, namespace), filters))

    async def add(self, scope: Scope, id: str, resource: Resource) -> None:
        """Protect one more thing."""
        namespace = namespace_of(scope)
        _check(resource)

        def add(tx: Transaction) -> None:
            _get(tx, namespace, id)
            tx.put(RESOURCES, LeaseResource(namespace, id, resource.type, resource.id))

        await self._store.write(add)

    async def remove(self, scope: Scope, id: str, resource: Resource) -> None:
        """Protect one thing less; no error when the lease did not name it."""
        namespace = namespace_of(scope)
        _check(resource)

        def remove(tx: Transaction) -> None:
            _get(tx, namespace, id)
            tx.delete(RESOURCES, namespace, id, resource.type, resource.id)

        await self._store.write(remove)
        self._store.collector.changed()

    async def resources(self, scope: Scope, id: str) -> list[Resource]:
        """What it names."""
        namespace = namespace_of(scope)

        def resources(tx: Transaction) -> list[Resource]:
            _get(tx, namespace, id)
            return [Resource(row.id, row.type) for row in tx.scan(RESOURCES, namespace, id)]

        return await self._store.read(resources)


class _Hold:
    """`scope`: the one that was given, whose own lease, if it has one, protects as well."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.nodes: set[Node] = set()
        self.made: set[Node] = set()


def _get(tx: Transaction, namespace: str, id: str) -> Lease:
    lease = tx.get(LEASES, namespace, id)
    if lease is None:
        raise NotFound(f"there is no lease {id} in the namespace {namespace}")
    return lease


def _check(resource: Resource) -> None:
    kind, _, name = resource.type.partition("/")
    if kind == "content":
        validate_digest(resource.id)
    if kind not in ("content", "ingests", "images", "snapshots") or (kind == "snapshots") != bool(name):
        raise InvalidArgument(
            f"{resource.type!r} is no type that a lease can name: content, ingests, images or snapshots/NAME"
        )
