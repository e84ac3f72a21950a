"""Image records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
from intermodal_api.containerd.events import image_pb2 as events
from intermodal_core.contracts.common import Descriptor
from intermodal_core.contracts.managers.store import Image, Scope
from intermodal_core.contracts.metadata import Transaction
from intermodal_core.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from intermodal_oci.references import validate_digest, validate_labels

from intermodal_store.fields import merged, selected
from intermodal_store.names import enter, namespace_of, not_found, now
from intermodal_store.references import expiry
from intermodal_store.tables import IMAGES

if TYPE_CHECKING:
    from intermodal_store.store import Store

__all__ = ["Images"]

_MUTABLE = {"labels": "labels", "target": "target"}


class Images:
    """Implements `intermodal_core.contracts.managers.store.Images`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def get(self, scope: Scope, name: str) -> Image:
        """One image."""
        namespace = namespace_of(scope)
        return await self._store.read(lambda tx: _get(tx, namespace, name))

    async def select(self, scope: Scope, filters: Sequence[str] = ()) -> list[Image]:
        """All that match."""
        namespace = namespace_of(scope)
        return await self._store.read(lambda tx: selected(tx.scan(IMAGES, namespace), filters), long=True)

    async def create(self, scope: Scope, image: Image) -> Image:
        """Record one."""
        namespace = namespace_of(scope)
        _check(image)

        def create(tx: Transaction) -> Image:
            if tx.get(IMAGES, namespace, image.name) is not None:
                raise AlreadyExists(f"the image {image.name} is in the namespace {namespace} already")
            return self.put(tx, scope, image)

        return self._told(await self._store.write(create))

    def _told(self, image: Image) -> Image:
        """Tell the collector of its end, where it has one."""
        if end := expiry(image.labels):
            self._store.collector.changed(end)
        return image

    async def update(self, scope: Scope, image: Image, fields: Sequence[str] = ()) -> Image:
        """Change labels or target."""
        namespace = namespace_of(scope)
        validate_labels(image.labels)

        def update(tx: Transaction) -> Image:
            updated = merged(_get(tx, namespace, image.name), image, fields, _MUTABLE)
            _check(updated)
            return self.put(tx, scope, updated)

        updated = self._told(await self._store.write(update))
        self._store.collector.changed()
        return updated

    def put(self, tx: Transaction, scope: Scope, image: Image) -> Image:
        """Create or replace within a transaction, with its event."""
        current = tx.get(IMAGES, scope.namespace, image.name)
        when = now()
        enter(tx, scope)
        stored = msgspec.structs.replace(
            image,
            namespace=scope.namespace,
            created_at=current.created_at if current else image.created_at or when,
            updated_at=when,
        )
        tx.put(IMAGES, stored)
        self._store.leases.protect(tx, scope, "images", image.name, made=current is None)
        if current is None:
            created = events.ImageCreate(name=image.name, labels=image.labels)
            self._store.emit(tx, scope.namespace, "/images/create", created)
        else:
            changed = events.ImageUpdate(name=image.name, labels=image.labels)
            self._store.emit(tx, scope.namespace, "/images/update", changed)
        return stored

    async def delete(self, scope: Scope, name: str, target: Descriptor | None = None) -> None:
        """Forget one; with `target` only if it still points there."""
        namespace = namespace_of(scope)

        def delete(tx: Transaction) -> None:
            image = _get(tx, namespace, name)
            if target is not None and image.target.digest != target.digest:
                raise FailedPrecondition(f"the image {name} points at {image.target.digest}, not at {target.digest}")
            tx.delete(IMAGES, namespace, name)
            self._store.emit(tx, namespace, "/images/delete", events.ImageDelete(name=name))

        await self._store.write(delete)
        self._store.collector.changed()


def _get(tx: Transaction, namespace: str, name: str) -> Image:
    image = tx.get(IMAGES, namespace, name)
    if image is None:
        raise not_found(tx, "image", IMAGES, "by_name", name, namespace)
    return image


def _check(image: Image) -> None:
    if not image.name:
        raise InvalidArgument("an image needs a name")
    validate_labels(image.labels)
    validate_digest(image.target.digest)
    if not image.target.media_type or image.target.size <= 0:
        raise InvalidArgument(f"the target of the image {image.name} needs a media type and a size over 0")
