"""Layers to a chain of committed snapshots: side by side where snapshotter and differ can, in turn where not."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from intermodal_core.background import finished
from intermodal_core.contracts.common import Descriptor, Mount, Platform
from intermodal_core.contracts.differs import Alone, Applied, Residue
from intermodal_core.contracts.managers.images import Progress, Report, Unpacked
from intermodal_core.contracts.managers.store import INTERNAL_REF, Image, Scope, Store
from intermodal_core.errors import (
    AlreadyExists,
    FailedPrecondition,
    IntermodalError,
    InvalidArgument,
    NotFound,
    Unimplemented,
)
from intermodal_core.registry import Record, Registry
from intermodal_oci.chain import chain_ids
from intermodal_oci.model import Manifest

from intermodal_images.layers import LayerSource, Stored
from intermodal_images.stages import Stages
from intermodal_images.tree import Tree

__all__ = ["Unpacker"]

log = logging.getLogger("intermodal.images")

#: A daemon of many cores does not start more workers than disks are glad of.
_MOST: Final = 8


@dataclass
class _Layer:
    """A layer on its way into the chain."""

    source: LayerSource
    diff_id: str
    chain_id: str
    key: str = ""
    mounts: tuple[Mount, ...] = ()
    residue: Residue | None = None


@dataclass
class _Job:
    """One chain being made."""

    scope: Scope
    snapshotter: str
    layers: list[_Layer]
    report: Report | None
    stages: Stages
    differs: dict[str, Record] = field(default_factory=dict)


class Unpacker:
    """Unpacks images, and applies single layers for clients that drive it themselves."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry
        self._differs: dict[str, Record] = {}
        self._workers = asyncio.Semaphore(max(2, min(_MOST, os.cpu_count() or 1)))

    async def unpack(
        self, scope: Scope, image: Image, snapshotter: str, platform: Platform, report: Report | None
    ) -> Unpacked:
        """Make what is missing of the chain, of blobs that are there."""
        snapshotter, _ = await self._store.choose("snapshotter", scope.namespace, image.name, image.labels, snapshotter)
        tree = Tree(self._store, scope)
        _, manifest = await tree.manifest(image.target, platform)
        data, config = await tree.config(manifest)
        sources = [Stored(self._store, scope, layer) for layer in manifest.layers]
        top = await self.chain(scope, snapshotter, manifest, config.rootfs.diff_ids, sources, report, Stages())
        return Unpacked(image, data, manifest.config.digest, snapshotter, top)

    async def chain(
        self,
        scope: Scope,
        snapshotter: str,
        manifest: Manifest,
        diff_ids: Sequence[str],
        sources: Sequence[LayerSource],
        report: Report | None,
        stages: Stages,
    ) -> str:
        """Make what is missing; returns the top's name, "" for an image without layers.

        It is looked for from the top, so that a whole one costs one look; of callers at the same time one does the work.
        """
        chain = chain_ids(diff_ids)
        if not chain:
            return ""
        layers = [_Layer(*each) for each in zip(sources, diff_ids, chain, strict=True)]
        job = _Job(scope, snapshotter, layers, report, stages)
        async with self._store.lock("unpack", scope.namespace, snapshotter, chain[-1]):
            there = await self._there(scope, snapshotter, chain)
            if there < len(chain):
                for layer in layers[there:]:
                    media_type = layer.source.descriptor.media_type
                    job.differs[media_type] = await self._differ(media_type)
                if len(chain) - there > 1 and await self._can_side_by_side(job):
                    await self._side_by_side(job, there)
                else:
                    for number in range(there, len(chain)):
                        await self._in_turn(job, number)
            label = f"containerd.io/gc.ref.snapshot.{snapshotter}"
            config = await self._store.content.info(scope, manifest.config.digest)
            if config.labels.get(label) != chain[-1]:
                await self._store.content.update(scope, config.digest, {label: chain[-1]}, [f"labels.{label}"])
        return chain[-1]

    async def _there(self, scope: Scope, snapshotter: str, chain: list[str]) -> int:
        """How many snapshots of the chain, from the bottom, are there."""
        for number in range(len(chain), 0, -1):
            try:
                look = self._store.snapshots.keep if scope.lease else self._store.snapshots.stat
                await look(scope, snapshotter, chain[number - 1])
            except NotFound:
                continue
            return number
        return 0

    async def _can_side_by_side(self, job: _Job) -> bool:
        await self._registry.require("snapshotters", job.snapshotter)
        record = self._registry.find("snapshotters", job.snapshotter)
        if record.plugin is None or "rebase" not in record.plugin.capabilities:
            return False
        differs = job.differs.values()
        return all(differ.plugin is not None and "alone" in differ.plugin.capabilities for differ in differs)

    # Layer after layer.

    async def _in_turn(self, job: _Job, number: int) -> None:
        layer = job.layers[number]
        parent = job.layers[number - 1].chain_id if number else ""
        try:
            await self._prepare(job, layer, parent)
            await self._apply_verified(job, layer, alone=False)
            await self._commit(job, layer, None)
        except BaseException:
            await asyncio.shield(self._drop(job, [layer]))
            raise

    # Side by side.

    async def _side_by_side(self, job: _Job, there: int) -> None:
        """Apply all at once; settle and commit them in their order."""
        layers = job.layers
        tasks = [asyncio.create_task(self._one_alone(job, number)) for number in range(there, len(layers))]
        views: list[str] = []
        try:
            below = await self._view(job, layers[there - 1].chain_id, views) if there else ()
            base = there  # the layers from here on lie on `below`, the first of them committed already
            number = there
            while number < len(layers):
                await _first_failure(tasks, tasks[number - there])
                end = number + 1
                while end < len(layers) and tasks[end - there].done() and not tasks[end - there].exception():
                    end += 1
                settled = await self._settle(job, base, number, end, below)
                while number < settled:
                    parent = layers[number - 1].chain_id if number else ""
                    if not await self._commit(job, layers[number], parent):
                        # Another client's is in its place, and ours is gone.
                        below = await self._view(job, layers[number].chain_id, views)
                        base = number + 1
                        end = settled = number + 1
                    number += 1
                if number < end:
                    await self._drop(job, [layers[number]])
                    await self._in_turn(job, number)
                    below = await self._view(job, layers[number].chain_id, views)
                    number += 1
                    base = number
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.shield(self._end(job, tasks, views, layers[there:]))
            raise
        await self._end(job, tasks, views, [])

    async def _one_alone(self, job: _Job, number: int) -> None:
        layer = job.layers[number]
        await self._prepare(job, layer, "")
        # The lowest of all has nothing below it, so that nothing is left to settle.
        applied = await self._apply_verified(job, layer, alone=number > 0)
        layer.residue = applied.residue if number else Residue()

    async def _settle(self, job: _Job, base: int, number: int, end: int, below: tuple[Mount, ...]) -> int:
        """Settle the layers from `number` to `end`; up to which one they are as if applied in turn."""
        layers = job.layers
        alone: list[Alone] = []
        for index in range(base, end):
            residue = layers[index].residue if index >= number else Residue()
            if residue is None:
                break
            alone.append(Alone(layers[index].mounts, residue))
        if base + len(alone) <= number:
            return number
        with job.stages.at_work("settle"):
            differ = job.differs[layers[number].source.descriptor.media_type].instance
            done: int = await differ.settle(tuple(alone), below)
        return max(number, base + done)

    async def _view(self, job: _Job, chain_id: str, views: list[str]) -> tuple[Mount, ...]:
        key = f"{INTERNAL_REF}below-{secrets.token_hex(6)} {chain_id}"
        views.append(key)
        return tuple(await self._store.snapshots.view(job.scope, job.snapshotter, key, chain_id))

    async def _end(
        self, job: _Job, tasks: Sequence[asyncio.Task[None]], views: Sequence[str], left: list[_Layer]
    ) -> None:
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._drop(job, left)
        for key in views:
            await self._remove(job, key)

    # The steps of both.

    async def _prepare(self, job: _Job, layer: _Layer, parent: str) -> None:
        layer.key = f"{INTERNAL_REF}extract-{secrets.token_hex(6)} {layer.chain_id}"
        layer.mounts = tuple(await self._store.snapshots.prepare(job.scope, job.snapshotter, layer.key, parent))

    async def _apply_verified(self, job: _Job, layer: _Layer, alone: bool) -> Applied:
        descriptor = layer.source.descriptor
        applied = await self._apply(job, layer, alone)
        await layer.source.verified()
        if applied.source_digest != descriptor.digest:
            raise FailedPrecondition(
                f"the blob of the layer {descriptor.digest} has the digest {applied.source_digest}"
            )
        if applied.diff_id != layer.diff_id:
            raise FailedPrecondition(
                f"the layer {descriptor.digest} unpacks to {applied.diff_id}, and the image's config says {layer.diff_id}"
            )
        return applied

    async def _apply(self, job: _Job, layer: _Layer, alone: bool) -> Applied:
        descriptor, report, stages = layer.source.descriptor, job.report, job.stages
        differ = job.differs[descriptor.media_type].instance
        loop = asyncio.get_running_loop()

        def fed(count: int) -> None:
            if report is not None:
                loop.call_soon_threadsafe(report, Progress("unpack", descriptor.digest, count, descriptor.size))

        async with self._workers, layer.source.read(fed) as feed:
            work = differ.apply(feed.descriptor, descriptor, layer.mounts, **({"alone": True} if alone else {}))
            try:
                # A caller who gives up must not take the mounts away from a worker that writes to them.
                applied: Applied = await finished(work, feed.stop)
            except InvalidArgument:
                await layer.source.verified()  # wrong bytes are the reason for all that they lead to
                raise
            except IntermodalError:
                await layer.source.fault()
                raise
        for name, seconds in applied.seconds.items():
            stages.computed(name, applied.size, seconds)
        return applied

    async def _commit(self, job: _Job, layer: _Layer, parent: str | None) -> bool:
        """Whether it is ours that is in the chain now; another client may have been faster."""
        with job.stages.at_work("commit"):
            try:
                await self._store.snapshots.commit(
                    job.scope, job.snapshotter, layer.chain_id, layer.key, parent=parent or None
                )
            except AlreadyExists:
                await self._drop(job, [layer])
                return False
        layer.key = ""
        return True

    async def _drop(self, job: _Job, layers: Sequence[_Layer]) -> None:
        for layer in layers:
            key, layer.key = layer.key, ""
            if key:
                await self._remove(job, key)

    async def _remove(self, job: _Job, key: str) -> None:
        try:
            await self._store.snapshots.remove(job.scope, job.snapshotter, key)
        except NotFound:
            pass  # it did not come to be
        except IntermodalError as error:
            log.warning("the snapshot %s stays until it is collected: %s", key, error)

    # For clients that drive it themselves.

    async def apply(self, scope: Scope, descriptor: Descriptor, mounts: tuple[Mount, ...]) -> Descriptor:
        """Apply one layer; the descriptor of its uncompressed tar."""
        layer = _Layer(Stored(self._store, scope, descriptor), "", "", mounts=mounts)
        job = _Job(
            scope, "", [layer], None, Stages(), {descriptor.media_type: await self._differ(descriptor.media_type)}
        )
        applied = await self._apply(job, layer, alone=False)
        if applied.source_digest != descriptor.digest:
            raise FailedPrecondition(
                f"the blob of the layer {descriptor.digest} has the digest {applied.source_digest}"
            )
        label = "containerd.io/uncompressed"
        await self._store.content.update(scope, descriptor.digest, {label: applied.diff_id}, [f"labels.{label}"])
        return Descriptor("application/vnd.oci.image.layer.v1.tar", applied.diff_id, applied.size)

    async def _differ(self, media_type: str) -> Record:
        """The first differ that takes the media type."""
        known = self._differs.get(media_type)
        if known is not None and known.state == "ready" and known in self._registry.records("differs"):
            return known
        for record in self._registry.records("differs"):
            await self._registry.load(record)
            if record.state == "ready" and media_type in await record.instance.media_types():
                self._differs[media_type] = record
                return record
        raise Unimplemented(f"no differ takes layers of the media type {media_type}")


async def _first_failure(tasks: Sequence[asyncio.Task[None]], wanted: asyncio.Task[None]) -> None:
    """When `wanted` is done; raises at once what any of `tasks` failed with."""
    while not wanted.done():
        pending = [task for task in tasks if not task.done()]
        await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
    wanted.result()
