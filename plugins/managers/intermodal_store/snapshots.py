"""Snapshots by the names that clients give.

A row maps a client's key to an object of the backend, whose own key is unique for ever: so nothing that a crash leaves in
a backend can be in the way of a name. What has no row is an orphan, removed when its backend is first used after a start.
"""

from __future__ import annotations

import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from intermodal_api.containerd.events import snapshot_pb2 as events
from intermodal_core.background import finished
from intermodal_core.contracts.common import Mount, Usage
from intermodal_core.contracts.managers.store import INTERNAL_REF, Scope
from intermodal_core.contracts.metadata import Transaction
from intermodal_core.contracts.snapshotters import SnapshotInfo
from intermodal_core.errors import AlreadyExists, FailedPrecondition, IntermodalError, InvalidArgument, NotFound
from intermodal_oci.references import validate_labels

from intermodal_store.doubts import UNKNOWN
from intermodal_store.fields import merged, selected
from intermodal_store.names import enter, namespace_of, now
from intermodal_store.tables import SNAPSHOTS, SnapshotRow

if TYPE_CHECKING:
    from intermodal_store.store import Store

__all__ = ["Snapshots"]

log = logging.getLogger("intermodal.snapshots")

_TARGET = "containerd.io/snapshot.ref"
#: Snapshots whose mounts are kept.
_REMEMBERED = 256
_FOR_BACKEND = "containerd.io/snapshot/"


class Snapshots:
    """Implements `intermodal_core.contracts.managers.store.Snapshots`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._reconciled: set[str] = set()
        #: The mounts of what was made lately, by object, with the backend that said so: clients ask for them again at once.
        self._mounts: OrderedDict[str, tuple[Any, list[Mount]]] = OrderedDict()

    async def _backend(self, scope: Scope, snapshotter: str) -> tuple[str, Any]:
        """The name and the ready backend; what a crash left in it is settled before its first use."""
        namespace = namespace_of(scope)
        name, _ = await self._store.choose("snapshotter", namespace, asked=snapshotter)
        return name, await self._ready(name)

    async def _ready(self, name: str) -> Any:
        backend = await self._store.registry.require("snapshotters", name)
        if name not in self._reconciled:
            async with self._store.lock("reconcile", name):
                if name not in self._reconciled:
                    await self._reconcile(name, backend)
                    self._reconciled.add(name)
        return backend

    async def settle(self) -> None:
        """At start: drop the snapshots of managers' own unfinished work, and settle what a crash left in every
        snapshotter that this root has used.
        """

        def unfinished(tx: Transaction) -> None:
            for row in list(tx.scan(SNAPSHOTS)):
                if row.key.startswith(INTERNAL_REF) and row.created_at < self._store.began:
                    self.forget(tx, row.namespace, row.snapshotter, row.key)

        await self._store.write(unfinished)
        for name in self.used():
            try:
                await self._ready(name)
            except IntermodalError as error:
                log.warning("what a crash may have left in %s stays: %s", name, error)

    def used(self) -> list[str]:
        """The snapshotters that this root has used and that can be had."""
        directory = Path(self._store.registry.config.core.root) / "snapshotters"
        return [
            record.name
            for record in self._store.registry.records("snapshotters")
            if (directory / record.name).is_dir() and record.state in ("available", "ready")
        ]

    async def _reconcile(self, snapshotter: str, backend: Any) -> None:
        objects = {info.key: info for info in await backend.walk()}

        def settle(tx: Transaction) -> set[str]:
            kept: set[str] = set()
            for row in list(tx.scan(SNAPSHOTS, snapshotter, index="by_snapshotter")):
                if row.becomes and row.becomes in objects and row.object not in objects:
                    self._rename(tx, row)
                    kept.add(row.becomes)
                elif row.object in objects:
                    if row.becomes:
                        tx.put(SNAPSHOTS, msgspec.structs.replace(row, named="", becomes=""))
                    kept.add(row.object)
                else:
                    log.warning(
                        "the snapshot %s of %s is gone from the backend; its record is dropped", row.key, snapshotter
                    )
                    tx.delete(SNAPSHOTS, row.namespace, row.snapshotter, row.key)
            return kept

        kept = await self._store.write(settle)
        orphans = [info for key, info in objects.items() if key not in kept]
        for info in _children_first(orphans):
            log.info("removing the orphan %s of %s", info.key, snapshotter)
            try:
                await backend.remove(info.key)
            except IntermodalError as error:
                log.warning("the orphan %s of %s stays: %s", info.key, snapshotter, error)
        self._store.later(backend.cleanup())

    # Making.

    async def prepare(
        self, scope: Scope, snapshotter: str, key: str, parent: str = "", labels: Mapping[str, str] | None = None
    ) -> list[Mount]:
        """An active snapshot."""
        return await finished(self._make(scope, snapshotter, key, parent, labels or {}, "active"))

    async def view(
        self, scope: Scope, snapshotter: str, key: str, parent: str = "", labels: Mapping[str, str] | None = None
    ) -> list[Mount]:
        """A view."""
        return await finished(self._make(scope, snapshotter, key, parent, labels or {}, "view"))

    async def _make(
        self, scope: Scope, snapshotter: str, key: str, parent: str, labels: Mapping[str, str], kind: Any
    ) -> list[Mount]:
        if not key:
            raise InvalidArgument("a snapshot needs a key")
        validate_labels(labels)
        name, backend = await self._backend(scope, snapshotter)
        target = labels.get(_TARGET, "")

        def look(tx: Transaction) -> str:
            for taken in (key, target):
                if taken and tx.get(SNAPSHOTS, scope.namespace, name, taken) is not None:
                    raise AlreadyExists(f"the snapshot {taken} is in {name} already")
            return _parent_object(tx, scope.namespace, name, parent)

        try:
            parent_object = await self._store.read(look)
        except AlreadyExists:
            if target and scope.lease:
                await self._store.write(lambda tx: self._protect(tx, scope, name, target, made=False))
            raise
        object = _object(scope.namespace, key)
        make = backend.view if kind == "view" else backend.prepare
        try:
            mounts: list[Mount] = await make(object, parent_object, _for_backend(labels))
        except UNKNOWN as error:
            self._store.doubts.settle(error, lambda: self._unmake(name, object))
            raise
        when = now()
        row = SnapshotRow(scope.namespace, name, key, object, parent, kind, when, when, dict(labels))

        def record(tx: Transaction) -> None:
            if tx.get(SNAPSHOTS, scope.namespace, name, key) is not None:
                raise AlreadyExists(f"the snapshot {key} is in {name} already")
            _parent_object(tx, scope.namespace, name, parent)
            enter(tx, scope)
            tx.put(SNAPSHOTS, row)
            self._protect(tx, scope, name, key)
            message = events.SnapshotPrepare(key=key, parent=parent, snapshotter=name)
            self._store.emit(tx, scope.namespace, "/snapshot/prepare", message)

        try:
            await self._store.write(record)
        except BaseException:
            self._store.later(self._unmake(name, object))
            raise
        self._mounts[object] = (backend.instance, mounts)
        if len(self._mounts) > _REMEMBERED:
            self._mounts.popitem(last=False)
        return mounts

    def _protect(self, tx: Transaction, scope: Scope, snapshotter: str, key: str, made: bool = True) -> None:
        if tx.get(SNAPSHOTS, scope.namespace, snapshotter, key) is not None:
            self._store.leases.protect(tx, scope, f"snapshots/{snapshotter}", key, made)

    async def commit(
        self,
        scope: Scope,
        snapshotter: str,
        name: str,
        key: str,
        labels: Mapping[str, str] | None = None,
        parent: str | None = None,
    ) -> None:
        """Turn an active snapshot into a committed one."""
        await finished(self._commit(scope, snapshotter, name, key, labels, parent))

    async def _commit(
        self,
        scope: Scope,
        snapshotter: str,
        name: str,
        key: str,
        labels: Mapping[str, str] | None,
        parent: str | None,
    ) -> None:
        if not name:
            raise InvalidArgument("a committed snapshot needs a name")
        validate_labels(labels or {})
        plugin, backend = await self._backend(scope, snapshotter)
        becomes = _object(scope.namespace, name)

        def announce(tx: Transaction) -> tuple[SnapshotRow, str | None]:
            row = _get(tx, scope.namespace, plugin, key)
            if row.kind != "active":
                raise FailedPrecondition(f"the snapshot {key} is {row.kind}: only an active one can be committed")
            if tx.get(SNAPSHOTS, scope.namespace, plugin, name) is not None:
                raise AlreadyExists(f"the snapshot {name} is in {plugin} already")
            rebase = None
            if parent is not None and parent != row.parent:
                rebase = _parent_object(tx, scope.namespace, plugin, parent)
                row = msgspec.structs.replace(row, parent=parent)
            row = msgspec.structs.replace(row, named=name, becomes=becomes)
            return row, rebase

        async with self._store.lock("snapshot", scope.namespace, plugin, name):
            row, rebase = await self._store.read(announce)
            pending = msgspec.structs.replace(row, labels=dict(labels or {}))
            await self._store.write(lambda tx: tx.put(SNAPSHOTS, pending))

            def record(tx: Transaction) -> None:
                self._rename(tx, pending)
                self._protect(tx, scope, plugin, name)
                message = events.SnapshotCommit(key=key, name=name, snapshotter=plugin)
                self._store.emit(tx, scope.namespace, "/snapshot/commit", message)

            try:
                await backend.commit(becomes, row.object, _for_backend(labels or {}), rebase)
            except UNKNOWN as error:
                self._store.doubts.settle(error, lambda: self._look_for(backend, pending, record))
                raise
            await self._store.write(record)

    async def _look_for(self, backend: Any, pending: SnapshotRow, record: Callable[[Transaction], None]) -> None:
        """Record a commit of which it was not known whether it came to be, or take back that it was begun."""
        try:
            await backend.stat(pending.becomes)
            came = True
        except NotFound:
            came = False

        def settle(tx: Transaction) -> None:
            row = tx.get(SNAPSHOTS, pending.namespace, pending.snapshotter, pending.key)
            if row is None or row.becomes != pending.becomes:
                return  # somebody went on with it meanwhile
            if came:
                record(tx)
            else:
                tx.put(SNAPSHOTS, msgspec.structs.replace(row, named="", becomes=""))

        await self._store.write(settle)

    def _rename(self, tx: Transaction, row: SnapshotRow) -> None:
        tx.delete(SNAPSHOTS, row.namespace, row.snapshotter, row.key)
        tx.put(
            SNAPSHOTS,
            msgspec.structs.replace(
                row, key=row.named, object=row.becomes, kind="committed", updated_at=now(), named="", becomes=""
            ),
        )

    async def remove(self, scope: Scope, snapshotter: str, key: str) -> None:
        """Forget a snapshot; the name is free at once, the backend's bytes go in the background."""
        name, _ = await self._backend(scope, snapshotter)
        await self._store.write(lambda tx: self.forget(tx, scope.namespace, name, key))
        self._store.removed()

    def forget(self, tx: Transaction, namespace: str, snapshotter: str, key: str) -> None:
        """Drop the row within a transaction, with its event; the backend's object gets a tombstone.

        Raises NotFound, FailedPrecondition for one that has children.
        """
        row = _get(tx, namespace, snapshotter, key)
        if row.kind == "committed" and (
            child := next(tx.scan(SNAPSHOTS, namespace, snapshotter, key, index="by_parent"), None)
        ):
            raise FailedPrecondition(f"the snapshot {key} has children ({child.key}): remove them first")
        tx.delete(SNAPSHOTS, namespace, snapshotter, key)
        message = events.SnapshotRemove(key=key, snapshotter=snapshotter)
        self._store.emit(tx, namespace, "/snapshot/remove", message)
        self._store.tombstones.leave(tx, f"snapshots/{snapshotter}", row.object)

    async def _unmake(self, snapshotter: str, object: str) -> None:
        """Have an object removed that was made and did not come to be recorded; where it was, it has a row."""

        def leave(tx: Transaction) -> None:
            if not any(row.object == object for row in tx.scan(SNAPSHOTS, snapshotter, index="by_snapshotter")):
                self._store.tombstones.leave(tx, f"snapshots/{snapshotter}", object)

        await self._store.write(leave)
        await self._store.tombstones.follow()

    # Looking.

    async def mounts(self, scope: Scope, snapshotter: str, key: str) -> list[Mount]:
        """The mounts of an active snapshot or a view."""
        name, backend = await self._backend(scope, snapshotter)
        row = await self._store.read(lambda tx: _get(tx, scope.namespace, name, key))
        known = self._mounts.get(row.object)
        if known is not None and known[0] is backend.instance and not row.becomes:
            return known[1]
        return await backend.mounts(row.object)  # type: ignore[no-any-return]

    async def stat(self, scope: Scope, snapshotter: str, key: str) -> SnapshotInfo:
        """What is recorded."""
        name, _ = await self._backend(scope, snapshotter)
        return _info(await self._store.read(lambda tx: _get(tx, scope.namespace, name, key)))

    async def keep(self, scope: Scope, snapshotter: str, key: str) -> SnapshotInfo:
        """What is recorded, protected."""
        name, _ = await self._backend(scope, snapshotter)

        def keep(tx: Transaction) -> SnapshotRow:
            row = _get(tx, scope.namespace, name, key)
            self._store.leases.protect(tx, scope, f"snapshots/{name}", key, made=False)
            return row

        return _info(await self._store.write(keep))

    async def update(
        self, scope: Scope, snapshotter: str, key: str, labels: Mapping[str, str], fields: Sequence[str] = ()
    ) -> SnapshotInfo:
        """Change labels."""
        validate_labels(labels)
        name, backend = await self._backend(scope, snapshotter)

        def update(tx: Transaction) -> SnapshotRow:
            row = _get(tx, scope.namespace, name, key)
            changed = merged(row, msgspec.structs.replace(row, labels=dict(labels)), fields, {"labels": "labels"})
            changed = msgspec.structs.replace(changed, updated_at=now())
            tx.put(SNAPSHOTS, changed)
            return changed

        row = await self._store.write(update)
        await backend.update(row.object, _for_backend(row.labels))
        return _info(row)

    async def select(self, scope: Scope, snapshotter: str, filters: Sequence[str] = ()) -> list[SnapshotInfo]:
        """All that match."""
        name, _ = await self._backend(scope, snapshotter)
        rows = await self._store.read(lambda tx: list(tx.scan(SNAPSHOTS, scope.namespace, name)), long=True)
        return selected(map(_info, rows), filters)

    async def usage(self, scope: Scope, snapshotter: str, key: str) -> Usage:
        """Disk use."""
        name, backend = await self._backend(scope, snapshotter)
        row = await self._store.read(lambda tx: _get(tx, scope.namespace, name, key))
        return await backend.usage(row.object)  # type: ignore[no-any-return]

    async def cleanup(self, scope: Scope, snapshotter: str) -> None:
        """Free what removed snapshots still occupy."""
        name, backend = await self._backend(scope, snapshotter)
        await self._store.tombstones.follow(f"snapshots/{name}")
        await backend.cleanup()


def _get(tx: Transaction, namespace: str, snapshotter: str, key: str) -> SnapshotRow:
    row = tx.get(SNAPSHOTS, namespace, snapshotter, key)
    if row is None:
        raise NotFound(f"there is no snapshot {key} in {snapshotter} in the namespace {namespace}")
    return row


def _parent_object(tx: Transaction, namespace: str, snapshotter: str, parent: str) -> str:
    if not parent:
        return ""
    row = _get(tx, namespace, snapshotter, parent)
    if row.kind != "committed":
        raise InvalidArgument(f"the parent {parent} is {row.kind}: only a committed snapshot can be one")
    return row.object


def _object(namespace: str, key: str) -> str:
    return f"{namespace}/{secrets.token_hex(6)}/{key}"


def _for_backend(labels: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in labels.items() if key.startswith(_FOR_BACKEND) or key == _TARGET}


def _info(row: SnapshotRow) -> SnapshotInfo:
    return SnapshotInfo(row.key, row.parent, row.kind, row.created_at, row.updated_at, row.labels)


def _children_first(infos: Sequence[SnapshotInfo]) -> list[SnapshotInfo]:
    """Orphans in an order in which each can be removed."""
    by_key = {info.key: info for info in infos}
    parents_first = TopologicalSorter({info.key: [info.parent] for info in infos}).static_order()
    return [by_key[key] for key in reversed([*parents_first]) if key in by_key]
