"""Leases: recorded here, honoured by the collector."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from intermodal_core.contracts.managers.store import Lease, Resource, Scope
from intermodal_core.contracts.metadata import Transaction
from intermodal_core.errors import AlreadyExists, InvalidArgument, NotFound
from intermodal_oci.references import validate_digest, validate_labels

from intermodal_store.fields import selected
from intermodal_store.names import enter, namespace_of, now
from intermodal_store.tables import LEASES, RESOURCES, LeaseResource

if TYPE_CHECKING:
    from intermodal_store.store import Store

__all__ = ["Leases"]


class Leases:
    """Implements `intermodal_core.contracts.managers.store.Leases`."""

    def __init__(self, store: Store) -> None:
        self._store = store

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

        return await self._store.write(create)

    async def delete(self, scope: Scope, id: str) -> None:
        """End one; what it alone protected may be collected."""
        namespace = namespace_of(scope)

        def delete(tx: Transaction) -> None:
            _get(tx, namespace, id)
            self.end(tx, namespace, id)

        await self._store.write(delete)

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

    async def resources(self, scope: Scope, id: str) -> list[Resource]:
        """What it names."""
        namespace = namespace_of(scope)

        def resources(tx: Transaction) -> list[Resource]:
            _get(tx, namespace, id)
            return [Resource(row.id, row.type) for row in tx.scan(RESOURCES, namespace, id)]

        return await self._store.read(resources)


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
