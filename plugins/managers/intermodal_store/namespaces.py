"""Namespaces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from intermodal_api.containerd.events import namespace_pb2 as events
from intermodal_core.contracts.managers.store import Namespace
from intermodal_core.contracts.metadata import Table, Transaction
from intermodal_core.errors import AlreadyExists, FailedPrecondition, NotFound
from intermodal_oci.references import validate_identifier, validate_labels

from intermodal_store.fields import merged, selected
from intermodal_store.tables import CONTAINERS, CONTENT, IMAGES, LEASES, NAMESPACES, SNAPSHOTS

if TYPE_CHECKING:
    from intermodal_store.store import Store

__all__ = ["Namespaces"]


class Namespaces:
    """Implements `intermodal_core.contracts.managers.store.Namespaces`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def get(self, name: str, *, ruled: bool = True) -> Namespace:
        """One namespace, with the labels that the operator's rules give it where it has none of its own."""
        namespace = await self._store.read(lambda tx: _get(tx, name))
        return self._ruled(namespace) if ruled else namespace

    async def select(self, filters: Sequence[str] = ()) -> list[Namespace]:
        """All that match."""
        return await self._store.read(lambda tx: selected(map(self._ruled, tx.scan(NAMESPACES)), filters))

    def _ruled(self, namespace: Namespace) -> Namespace:
        return msgspec.structs.replace(namespace, labels=self._store.policy.labels(namespace.name) | namespace.labels)

    async def create(self, name: str, labels: Mapping[str, str]) -> Namespace:
        """Make one."""
        validate_identifier(name)
        validate_labels(labels)
        namespace = Namespace(name, dict(labels))

        def create(tx: Transaction) -> Namespace:
            if tx.get(NAMESPACES, name) is not None:
                raise AlreadyExists(f"the namespace {name} is there already")
            tx.put(NAMESPACES, namespace)
            self._store.emit(tx, name, "/namespaces/create", events.NamespaceCreate(name=name, labels=labels))
            return namespace

        return await self._store.write(create)

    async def update(self, name: str, labels: Mapping[str, str], fields: Sequence[str] = ()) -> Namespace:
        """Change labels."""
        validate_labels(labels)

        def update(tx: Transaction) -> Namespace:
            updated = merged(_get(tx, name), Namespace(name, dict(labels)), fields, {"labels": "labels"})
            tx.put(NAMESPACES, updated)
            message = events.NamespaceUpdate(name=name, labels=updated.labels)
            self._store.emit(tx, name, "/namespaces/update", message)
            return updated

        return await self._store.write(update)

    async def delete(self, name: str) -> None:
        """Remove an empty one."""

        def delete(tx: Transaction) -> None:
            _get(tx, name)
            tables: dict[str, Table[Any]] = {
                "images": IMAGES,
                "containers": CONTAINERS,
                "snapshots": SNAPSHOTS,
                "blobs": CONTENT,
                "leases": LEASES,
            }
            held = [f"{count} {what}" for what, table in tables.items() if (count := tx.count(table, name))]
            if held:
                raise FailedPrecondition(
                    f"the namespace {name} is not empty: it holds {', '.join(held)}; remove them first"
                )
            tx.delete(NAMESPACES, name)
            self._store.emit(tx, name, "/namespaces/delete", events.NamespaceDelete(name=name))

        await self._store.write(delete)


def _get(tx: Transaction, name: str) -> Namespace:
    namespace = tx.get(NAMESPACES, name)
    if namespace is None:
        raise NotFound(f"there is no namespace {name}")
    return namespace
