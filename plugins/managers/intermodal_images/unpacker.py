"""Layers to a chain of committed snapshots."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from typing import Any

from intermodal_core.contracts.common import Descriptor, Mount, Platform
from intermodal_core.contracts.differs import Applied
from intermodal_core.contracts.managers.images import Progress, Report, Unpacked
from intermodal_core.contracts.managers.store import INTERNAL_REF, Image, Scope, Store
from intermodal_core.errors import AlreadyExists, FailedPrecondition, IntermodalError, NotFound, Unimplemented
from intermodal_core.registry import Registry
from intermodal_oci.chain import chain_ids

from intermodal_images.tree import Tree

__all__ = ["Unpacker"]

log = logging.getLogger("intermodal.images")


class Unpacker:
    """Unpacks images, and applies single layers for clients that drive it themselves."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry
        self._differs: dict[str, Any] = {}

    async def unpack(
        self, scope: Scope, image: Image, snapshotter: str, platform: Platform, report: Report | None
    ) -> Unpacked:
        """Make what is missing of the chain; it is looked for from the top, so that a whole one costs one look."""
        snapshotter, _ = await self._store.choose("snapshotter", scope.namespace, image.name, image.labels, snapshotter)
        tree = Tree(self._store, scope)
        _, manifest = await tree.manifest(image.target, platform)
        data, config = await tree.config(manifest)
        diff_ids = config.rootfs.diff_ids
        chain = chain_ids(diff_ids)
        top = chain[-1] if chain else ""
        if top:
            async with self._store.lock("unpack", scope.namespace, snapshotter, top):
                there = await self._there(scope, snapshotter, chain)
                for number in range(there, len(chain)):
                    parent = chain[number - 1] if number else ""
                    layer = manifest.layers[number]
                    await self._layer(scope, snapshotter, layer, diff_ids[number], parent, chain[number], report)
                if there < len(chain):
                    label = f"containerd.io/gc.ref.snapshot.{snapshotter}"
                    await self._store.content.update(scope, manifest.config.digest, {label: top}, [f"labels.{label}"])
        return Unpacked(image, data, manifest.config.digest, snapshotter, top)

    async def _there(self, scope: Scope, snapshotter: str, chain: list[str]) -> int:
        """How many snapshots of the chain, from the bottom, are there."""
        for number in range(len(chain), 0, -1):
            try:
                await self._store.snapshots.stat(scope, snapshotter, chain[number - 1])
            except NotFound:
                continue
            return number
        return 0

    async def _layer(
        self,
        scope: Scope,
        snapshotter: str,
        layer: Descriptor,
        diff_id: str,
        parent: str,
        chain_id: str,
        report: Report | None,
    ) -> None:
        key = f"{INTERNAL_REF}extract-{secrets.token_hex(6)} {chain_id}"
        if report is not None:
            report(Progress("unpack", layer.digest, 0, layer.size))
        mounts = await self._store.snapshots.prepare(scope, snapshotter, key, parent)
        try:
            applied = await self._apply(scope, layer, tuple(mounts))
            if applied.diff_id != diff_id:
                raise FailedPrecondition(
                    f"the layer {layer.digest} unpacks to {applied.diff_id}, and the image's config says {diff_id}"
                )
            try:
                await self._store.snapshots.commit(scope, snapshotter, chain_id, key)
            except AlreadyExists:
                await self._store.snapshots.remove(scope, snapshotter, key)  # another client was faster
        except BaseException:
            await asyncio.shield(self._drop(scope, snapshotter, key))
            raise
        if report is not None:
            report(Progress("unpack", layer.digest, layer.size, layer.size))

    async def _drop(self, scope: Scope, snapshotter: str, key: str) -> None:
        try:
            await self._store.snapshots.remove(scope, snapshotter, key)
        except IntermodalError as error:
            log.warning("the snapshot %s stays until it is collected: %s", key, error)

    async def apply(self, scope: Scope, layer: Descriptor, mounts: tuple[Mount, ...]) -> Descriptor:
        """Apply one layer; the descriptor of its uncompressed tar."""
        applied = await self._apply(scope, layer, mounts)
        label = "containerd.io/uncompressed"
        await self._store.content.update(scope, layer.digest, {label: applied.diff_id}, [f"labels.{label}"])
        return Descriptor("application/vnd.oci.image.layer.v1.tar", applied.diff_id, applied.size)

    async def _apply(self, scope: Scope, layer: Descriptor, mounts: tuple[Mount, ...]) -> Applied:
        differ = await self._differ(layer.media_type)
        fd = await self._store.content.open(scope, layer.digest)
        try:
            # A caller who gives up must not take the mounts away from a worker that writes to them.
            work = asyncio.ensure_future(differ.apply(fd, layer, mounts))
            try:
                applied: Applied = await asyncio.shield(work)
            except asyncio.CancelledError:
                await asyncio.wait([work])
                raise
        finally:
            os.close(fd)
        if applied.source_digest != layer.digest:
            raise FailedPrecondition(f"the blob of the layer {layer.digest} has the digest {applied.source_digest}")
        return applied

    async def _differ(self, media_type: str) -> Any:
        """The first differ that takes the media type."""
        if media_type not in self._differs:
            for record in self._registry.records("differs"):
                await self._registry.load(record)
                if record.state == "ready" and media_type in await record.instance.media_types():
                    self._differs[media_type] = record.instance
                    break
            else:
                raise Unimplemented(f"no differ takes layers of the media type {media_type}")
        return self._differs[media_type]
