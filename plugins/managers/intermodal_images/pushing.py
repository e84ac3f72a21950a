"""Pushes: what an image needs, children before those that name them."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from intermodal_core.contracts.common import Descriptor
from intermodal_core.contracts.managers.images import Progress, PushRequest, Report
from intermodal_core.contracts.managers.store import Image, Scope, Store
from intermodal_core.errors import IntermodalError, InvalidArgument, NotFound
from intermodal_core.registry import Registry
from intermodal_oci import platforms, references
from intermodal_oci.model import decode_index, decode_manifest, is_index
from intermodal_oci.platforms import format_platform

from intermodal_images.tree import DEPTH, Tree

__all__ = ["Pusher"]

_SOURCE_LABEL = "containerd.io/distribution.source."


class Pusher:
    """Pushes for the images manager; `at_once` blobs at the same time."""

    def __init__(self, store: Store, registry: Registry, at_once: int) -> None:
        self._store = store
        self._registry = registry
        self._slots = asyncio.Semaphore(at_once)

    async def push(self, scope: Scope, image: Image, request: PushRequest, report: Report | None) -> None:
        """Send an image under the name that the request says, or its own."""
        name = references.normalise(request.name or image.name)
        source = await self._registry.require("image_sources")
        target = image.target
        if request.platform:
            target, _ = await Tree(self._store, scope).manifest(target, platforms.parse(request.platform))
        push = _Push(self._store, scope, source, name, request, report, self._slots)
        await push.document(target, name)


class _Push:
    def __init__(
        self,
        store: Store,
        scope: Scope,
        source: Any,
        name: str,
        request: PushRequest,
        report: Report | None,
        slots: asyncio.Semaphore,
    ) -> None:
        self._store = store
        self._scope = scope
        self._source = source
        self._reference = references.parse(name)
        self._request = request
        self._report = report
        self._slots = slots
        self._sent: dict[str, asyncio.Task[None]] = {}

    async def document(self, target: Descriptor, name: str, depth: int = 0) -> None:
        """Send an index or a manifest with all that it needs, under `name`."""
        data = await self._store.content.read(self._scope, target.digest)
        if is_index(target.media_type):
            if depth >= DEPTH:
                raise InvalidArgument(f"the index {target.digest} lies more than {DEPTH} indexes deep")
            for child in decode_index(data, target.digest).manifests:
                try:
                    await self.document(child, f"{self._reference.name}@{child.digest}", depth + 1)
                except NotFound as error:
                    what = format_platform(child.platform) if child.platform else child.digest
                    raise NotFound(
                        f"of the image only some platforms are here, and {what} is not: push one of them by --platform, "
                        f"or pull them all ({error})"
                    ) from error
        else:
            manifest = decode_manifest(data, target.digest)
            for blob in (manifest.config, *manifest.layers):
                await self._store.content.info(self._scope, blob.digest)
            await self._blobs((manifest.config, *manifest.layers))
        await self._send(target, name)

    async def _blobs(self, blobs: tuple[Descriptor, ...]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for blob in {each.digest: each for each in blobs}.values():
                    if blob.digest not in self._sent:
                        self._sent[blob.digest] = group.create_task(self._blob(blob))
        except BaseExceptionGroup as failed:
            raise next((each for each in failed.exceptions if isinstance(each, IntermodalError)), failed) from None

    async def _blob(self, blob: Descriptor) -> None:
        info = await self._store.content.info(self._scope, blob.digest)
        source = info.labels.get(f"{_SOURCE_LABEL}{self._reference.domain}", "").split(",")[0]
        async with self._slots:
            await self._send(blob, str(self._reference), "" if source == self._reference.path else source)

    async def _send(self, target: Descriptor, name: str, mount_from: str = "") -> None:
        self._tell(target, 0)
        file = await self._store.content.open(self._scope, target.digest)
        try:
            await self._source.push(name, target, file, self._request.access, mount_from)
        finally:
            os.close(file)
        self._tell(target, target.size)

    def _tell(self, target: Descriptor, done: int) -> None:
        if self._report is not None:
            self._report(Progress("push", target.digest, done, target.size))
