"""Container records."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec
from google.protobuf.any_pb2 import Any as AnyMessage
from intermodal_api.containerd.events import container_pb2 as events
from intermodal_core.contracts.managers.store import Choice, Container, Scope
from intermodal_core.contracts.metadata import Transaction
from intermodal_core.errors import AlreadyExists, InvalidArgument
from intermodal_oci.references import validate_identifier, validate_labels

from intermodal_store.fields import merged, selected
from intermodal_store.names import enter, namespace_of, not_found, now
from intermodal_store.tables import CONTAINERS

if TYPE_CHECKING:
    from intermodal_store.store import Store

__all__ = ["Containers"]

_MUTABLE = {
    "labels": "labels",
    "image": "image",
    "spec": "spec",
    "extensions": "extensions",
    "snapshot_key": "snapshot_key",
    "snapshotkey": "snapshot_key",
}
_DEFAULT_FIELDS = ("labels", "image", "spec", "extensions", "snapshot_key")


class Containers:
    """Implements `intermodal_core.contracts.managers.store.Containers`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def get(self, scope: Scope, id: str) -> Container:
        """One container."""
        namespace = namespace_of(scope)
        return await self._store.read(lambda tx: _get(tx, namespace, id))

    async def select(self, scope: Scope, filters: Sequence[str] = ()) -> list[Container]:
        """All that match."""
        namespace = namespace_of(scope)
        return await self._store.read(lambda tx: selected(tx.scan(CONTAINERS, namespace), filters), long=True)

    async def create(self, scope: Scope, container: Container) -> Container:
        """Record one, its runtime chosen and pinned."""
        namespace = namespace_of(scope)
        validate_identifier(container.id)
        validate_labels(container.labels)
        if container.spec is None:
            raise InvalidArgument(f"the container {container.id} needs a spec")
        if container.choice is None:
            choice = await self._store.pin(namespace, container.image, container.labels, container.runtime)
            container = msgspec.structs.replace(container, choice=choice, runtime=container.runtime or choice.instance)

        def create(tx: Transaction) -> Container:
            return self.insert(tx, scope, container)

        async with self.announced(msgspec.structs.replace(container, namespace=namespace)):
            return await self._store.write(create)

    @asynccontextmanager
    async def announced(self, container: Container) -> AsyncIterator[None]:
        """Around what records a container: the hooks before and after it are called."""
        hooks = self._store.registry.hooks
        await hooks.notify("before_create", container=container.info)
        yield
        await hooks.notify("after_create", container=container.info)

    def insert(self, tx: Transaction, scope: Scope, container: Container) -> Container:
        """Record one within a transaction, with its event."""
        if tx.get(CONTAINERS, scope.namespace, container.id) is not None:
            raise AlreadyExists(
                f"the name {container.id} is taken in the namespace {scope.namespace}: choose another or remove it"
            )
        when = now()
        enter(tx, scope)
        stored = msgspec.structs.replace(container, namespace=scope.namespace, created_at=when, updated_at=when)
        tx.put(CONTAINERS, stored)
        runtime = events.ContainerCreate.Runtime(name=stored.runtime)
        if stored.runtime_options is not None:
            options = stored.runtime_options
            runtime.options.CopyFrom(AnyMessage(type_url=options.type_url, value=options.value))
        message = events.ContainerCreate(id=stored.id, image=stored.image, runtime=runtime)
        self._store.emit(tx, scope.namespace, "/containers/create", message)
        return stored

    async def update(self, scope: Scope, container: Container, fields: Sequence[str] = ()) -> Container:
        """Change what may change; runtime and snapshotter may not."""
        namespace = namespace_of(scope)
        validate_labels(container.labels)

        def update(tx: Transaction) -> Container:
            current = _get(tx, namespace, container.id)
            if not fields:
                for name in ("snapshotter", "runtime"):
                    if getattr(container, name) not in ("", getattr(current, name)):
                        raise InvalidArgument(f"the {name} of the container {container.id} cannot be changed")
            updated = merged(current, container, fields or _DEFAULT_FIELDS, _MUTABLE)
            updated = msgspec.structs.replace(updated, updated_at=now())
            tx.put(CONTAINERS, updated)
            message = events.ContainerUpdate(
                id=updated.id, image=updated.image, labels=updated.labels, snapshot_key=updated.snapshot_key
            )
            self._store.emit(tx, namespace, "/containers/update", message)
            return updated

        return await self._store.write(update)

    async def delete(self, scope: Scope, id: str) -> None:
        """Forget one."""
        namespace = namespace_of(scope)

        def delete(tx: Transaction) -> None:
            _get(tx, namespace, id)
            self.remove(tx, namespace, id)

        await self._store.write(delete)
        self._store.collector.changed()

    def repin(
        self, tx: Transaction, namespace: str, id: str, choice: Choice, snapshotter: str = "", snapshot_key: str = ""
    ) -> None:
        """Another runtime, and another snapshot where one is named, within a transaction, with the event of an update."""
        current = _get(tx, namespace, id)
        if snapshot_key:
            current = msgspec.structs.replace(current, snapshotter=snapshotter, snapshot_key=snapshot_key)
        updated = msgspec.structs.replace(current, choice=choice, runtime=choice.instance, updated_at=now())
        if current.choice is not None and current.choice.plugin != choice.plugin:
            updated = msgspec.structs.replace(updated, runtime_options=None)
        tx.put(CONTAINERS, updated)
        message = events.ContainerUpdate(
            id=id, image=updated.image, labels=updated.labels, snapshot_key=updated.snapshot_key
        )
        self._store.emit(tx, namespace, "/containers/update", message)

    def remove(self, tx: Transaction, namespace: str, id: str) -> None:
        """Forget one within a transaction, with its event."""
        if tx.delete(CONTAINERS, namespace, id):
            self._store.emit(tx, namespace, "/containers/delete", events.ContainerDelete(id=id))


def _get(tx: Transaction, namespace: str, id: str) -> Container:
    container = tx.get(CONTAINERS, namespace, id)
    if container is None:
        raise not_found(tx, "container", CONTAINERS, "by_id", id, namespace)
    return container
