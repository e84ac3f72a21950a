"""What a container has changed: as a layer, and as a list."""

from __future__ import annotations

import asyncio
import os
import secrets
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from intermodal_core.contracts.common import Descriptor, Mount
from intermodal_core.contracts.managers.images import Images
from intermodal_core.contracts.managers.lifecycle import Change
from intermodal_core.contracts.managers.store import INTERNAL_REF, Container, Scope, Store
from intermodal_core.errors import InvalidArgument, NotFound

from intermodal_tasks.specs import Lookups

__all__ = ["Changes"]

_TAR = "application/vnd.oci.image.layer.v1.tar"
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"


class Changes:
    """Compares a container's writable layer with what is below it."""

    def __init__(self, store: Store, images: Images, lookups: Lookups) -> None:
        self._store = store
        self._images = images
        self._lookups = lookups

    async def layer(self, scope: Scope, record: Container) -> Descriptor:
        """The change set as a blob, which the scope's lease keeps. Raises InvalidArgument for one without a snapshot."""
        async with self._lower(scope, record) as lower:
            upper = await self._store.snapshots.mounts(scope, record.snapshotter, record.snapshot_key)
            return await self._images.compare(scope, lower, upper, _TAR)

    async def listed(self, scope: Scope, record: Container) -> list[Change]:
        """Sorted by path."""
        async with self._store.leases.hold(scope, tidy=True) as held, self._lower(held, record) as lower:
            upper = await self._store.snapshots.mounts(held, record.snapshotter, record.snapshot_key)
            layer = await self._images.compare(held, lower, upper, _TAR)
            fd = await self._store.content.open(held, layer.digest)
            if not lower:
                return await asyncio.to_thread(_list, fd, None)
            async with self._lookups.open(lower) as below:
                return await asyncio.to_thread(_list, fd, below)

    async def copy(self, scope: Scope, record: Container, snapshotter: str, key: str) -> None:
        """Make the snapshot `key` of the container's image on another snapshotter, and apply what it has changed onto it."""
        async with self._store.leases.hold(scope, tidy=True) as held:
            unpacked = await self._images.unpack(held, record.image, snapshotter)
            await self._store.snapshots.prepare(scope, snapshotter, key, unpacked.chain_id)
            layer = await self.layer(held, record)
            mounts = await self._store.snapshots.mounts(scope, snapshotter, key)
            await self._images.apply(held, layer, mounts)

    @asynccontextmanager
    async def _lower(self, scope: Scope, record: Container) -> AsyncIterator[list[Mount]]:
        if not record.snapshot_key:
            raise InvalidArgument(f"the container {record.id} has no snapshot of its own: what it changes is elsewhere")
        info = await self._store.snapshots.stat(scope, record.snapshotter, record.snapshot_key)
        if not info.parent:
            yield []
            return
        key = f"{INTERNAL_REF}changes-{secrets.token_hex(6)}"
        try:
            yield list(await self._store.snapshots.view(scope, record.snapshotter, key, info.parent))
        finally:
            try:
                await asyncio.shield(self._store.snapshots.remove(scope, record.snapshotter, key))
            except NotFound:
                pass


def _list(fd: int, below: str | None) -> list[Change]:
    """Each entry of a layer is a change; what was there below is changed, else added. Takes the descriptor."""
    found: dict[str, Change] = {}
    with os.fdopen(fd, "rb") as file, tarfile.open(fileobj=file, mode="r|") as tar:
        for entry in tar:
            path = "/" + entry.name.removeprefix("./").strip("/")
            name = os.path.basename(path)
            if name == _OPAQUE or path == "/":
                continue
            if name.startswith(_WHITEOUT):
                path = os.path.join(os.path.dirname(path), name.removeprefix(_WHITEOUT))
                found[path] = Change(path, "deleted")
            else:
                there = below is not None and os.path.lexists(f"{below}{path}")
                found[path] = Change(path, "changed" if there else "added")
    return [found[path] for path in sorted(found)]
