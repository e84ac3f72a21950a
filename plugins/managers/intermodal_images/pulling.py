"""Pulls: from a name to a recorded, unpacked image.

A hold protects what a pull brings, and what it finds, until the image is recorded; when it fails, what it brought and nobody
else has come to need is collected at once. Documents come first, then the layers, each fetched, checked and unpacked at the same time, several side by side.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from intermodal_core.contracts.common import Descriptor, Platform
from intermodal_core.contracts.hooks import Pull
from intermodal_core.contracts.image_sources import Access, Resolved
from intermodal_core.contracts.managers.images import Decision, Progress, Pulled, PullRequest, Report
from intermodal_core.contracts.managers.store import Image, Scope, Store
from intermodal_core.errors import FailedPrecondition, InvalidArgument, NotFound
from intermodal_core.registry import Registry
from intermodal_oci import platforms, references
from intermodal_oci.model import MAX_DOCUMENT, Manifest, decode_index, decode_manifest, is_config, is_index, is_manifest

from intermodal_images.downloads import Download, Downloads
from intermodal_images.layers import Coming, LayerSource, Stored
from intermodal_images.stages import Stages
from intermodal_images.tree import DEPTH, Tree
from intermodal_images.unpacker import Unpacker
from intermodal_images.verifying import Verifying, label_of

__all__ = ["Puller"]

_SOURCE_LABEL: Final = "containerd.io/distribution.source."


@dataclass
class _Pull:
    """One pull."""

    scope: Scope
    name: str
    request: PullRequest
    source: Any
    platform: Platform
    report: Report | None
    stages: Stages = field(default_factory=Stages)
    #: Digests of what it needs.
    needed: set[str] = field(default_factory=set)
    fetched: int = 0

    @property
    def access(self) -> Access:
        """How the source is asked."""
        return self.request.access

    def tell(self, action: str, name: str, done: int, total: int) -> None:
        """Report progress."""
        if self.report is not None:
            self.report(Progress(action, name, done, total))


class Puller:
    """Pulls for the images manager."""

    def __init__(
        self, store: Store, registry: Registry, unpacker: Unpacker, verifying: Verifying, downloads: Downloads
    ) -> None:
        self._store = store
        self._registry = registry
        self._unpacker = unpacker
        self._verifying = verifying
        self._downloads = downloads

    async def pull(self, scope: Scope, request: PullRequest, report: Report | None) -> Pulled:
        """See the contract."""
        began = time.monotonic()
        asked = Pull(scope.named, references.normalise(request.name), request.platform, dict(request.labels))
        asked = await self._registry.hooks.change("before_pull", asked)
        name = references.normalise(asked.reference)
        wanted = platforms.parse(asked.platform) if asked.platform else platforms.host()
        source = await self._registry.require("image_sources")
        async with self._store.leases.hold(scope, tidy=True) as own:
            pull = _Pull(own, name, msgspec.structs.replace(request, labels=asked.labels), source, wanted, report)
            resolved = await self._resolve(pull)
            decision = await self._verify(pull, resolved)
            unpacked = await self._fetch(pull, resolved)
            image = await self._record(pull, resolved, decision)
        return Pulled(
            image,
            resolved.host,
            time.monotonic() - began,
            pull.fetched,
            pull.stages.all(),
            pull.stages.slowest(),
            unpacked,
            decision,
        )

    async def _resolve(self, pull: _Pull) -> Resolved:
        pull.tell("resolve", pull.name, 0, 0)
        with pull.stages.at_work("resolve"):
            resolved: Resolved = await pull.source.resolve(pull.name, pull.access)
        return resolved

    async def _verify(self, pull: _Pull, resolved: Resolved) -> Decision:
        pull.tell("verify", pull.name, 0, 0)
        with pull.stages.at_work("verify"):
            return await self._verifying.admit(
                pull.scope, pull.name, resolved.target, pull.request.labels, pull.access, resolved.host
            )

    async def _fetch(self, pull: _Pull, resolved: Resolved) -> str:
        """Bring all that the image needs; the snapshotter that it was unpacked for."""
        with pull.stages.at_work("documents"):
            manifests = await self._documents(pull, resolved.target)
        unpacked = ""
        request = pull.request
        snapshotter = ""
        if request.unpack is not None:
            snapshotter, _ = await self._store.choose(
                "snapshotter", pull.scope.namespace, pull.name, request.labels, request.unpack
            )
        for descriptor, manifest in manifests:
            runs_here = not request.all_platforms or platforms.matches(
                pull.platform, descriptor.platform or pull.platform
            )
            unpack = request.unpack is not None and is_config(manifest.config.media_type) and runs_here
            await self._layers(pull, manifest, snapshotter if unpack else None)
            unpacked = snapshotter if unpack else unpacked
        return unpacked

    # Documents.

    async def _documents(self, pull: _Pull, target: Descriptor) -> list[tuple[Descriptor, Manifest]]:
        """The manifests to have, each with its descriptor in the index; documents and configs are in the store then."""
        found: list[tuple[Descriptor, Manifest]] = []
        pending = [(target, 0)]
        while pending:
            descriptor, depth = pending.pop(0)
            data = await self._document(pull, descriptor)
            if is_manifest(descriptor.media_type):
                manifest = decode_manifest(data, descriptor.digest)
                await self._document(pull, manifest.config)
                found.append((descriptor, manifest))
                continue
            if depth >= DEPTH:
                raise InvalidArgument(f"the index {descriptor.digest} lies more than {DEPTH} indexes deep")
            children = [
                each for each in decode_index(data, descriptor.digest).manifests if _is_document(each.media_type)
            ]
            if not pull.request.all_platforms:
                children = [platforms.choose(children, pull.platform)]
            pending += [(child, depth + 1) for child in children]
        return found

    async def _document(self, pull: _Pull, target: Descriptor) -> bytes:
        """A document, from the store or the source; it is in the store then."""
        if target.size > MAX_DOCUMENT:
            raise InvalidArgument(
                f"{target.digest} has {target.size} bytes, too many for a document (at most {MAX_DOCUMENT})"
            )
        pull.needed.add(target.digest)
        try:
            await self._store.content.keep(pull.scope, target.digest)
            data = await self._store.content.read(pull.scope, target.digest)
        except NotFound:
            data = await self._whole(pull, target)
            await self._store.content.write(pull.scope, data, target.digest, _source_labels(pull.name))
            pull.fetched += len(data)
        if target.size and len(data) != target.size:
            raise FailedPrecondition(
                f"the document {target.digest} has {len(data)} bytes, and what names it says {target.size}"
            )
        return data

    async def _whole(self, pull: _Pull, target: Descriptor) -> bytes:
        """A small blob in memory. Raises FailedPrecondition where it is not what its digest says."""
        body = await pull.source.fetch(pull.name, target, access=pull.access)
        data = bytearray()
        try:
            async for piece in body:
                data += piece
                if len(data) > MAX_DOCUMENT:
                    raise InvalidArgument(
                        f"{target.digest} has more than {MAX_DOCUMENT} bytes, too many for a document"
                    )
        finally:
            await body.aclose()
        algorithm = target.digest.partition(":")[0]
        found = f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
        if found != target.digest:
            raise FailedPrecondition(f"{body.host} sent a document with the digest {found} as {target.digest}")
        return bytes(data)

    # Layers.

    async def _layers(self, pull: _Pull, manifest: Manifest, snapshotter: str | None) -> None:
        """Bring all layers, and unpack them where a snapshotter is given."""
        diff_ids: Sequence[str] = ()
        if snapshotter is not None:
            _, config = await Tree(self._store, pull.scope).config(manifest)
            diff_ids = config.rootfs.diff_ids
        async with AsyncExitStack() as stack:
            sources: list[LayerSource] = []
            keeping: dict[str, asyncio.Task[None]] = {}
            try:
                sources += [await self._source(pull, layer, stack, keeping) for layer in manifest.layers]
                if snapshotter is not None:
                    chain = self._unpacker.chain(
                        pull.scope, snapshotter, manifest, diff_ids, sources, pull.report, pull.stages
                    )
                    await _with(asyncio.ensure_future(chain), list(keeping.values()))
                await _with(None, list(keeping.values()))
            finally:
                for task in keeping.values():
                    task.cancel()
                await asyncio.gather(*keeping.values(), return_exceptions=True)

    async def _source(
        self, pull: _Pull, layer: Descriptor, stack: AsyncExitStack, keeping: dict[str, asyncio.Task[None]]
    ) -> LayerSource:
        """Where a layer comes from; a download is begun, and a task that will keep what it brings."""
        pull.needed.add(layer.digest)
        labels = _source_labels(pull.name)
        try:
            info = await self._store.content.keep(pull.scope, layer.digest)
        except NotFound:
            pass
        else:
            if info.size != layer.size:
                raise FailedPrecondition(
                    f"the layer {layer.digest} has {info.size} bytes, and its manifest says {layer.size}"
                )
            return Stored(self._store, pull.scope, layer)
        done = 0

        def moved(count: int) -> None:
            nonlocal done
            done += count
            pull.fetched += count
            pull.stages.moved("download", count)
            pull.tell("download", layer.digest, done, layer.size)

        repository = references.parse(pull.name).name
        download = await stack.enter_async_context(
            self._downloads.get(pull.source, pull.name, repository, layer, pull.access, moved)
        )
        if layer.digest not in keeping:
            keeping[layer.digest] = asyncio.create_task(self._keep(pull, download, labels))
        return Coming(download)

    async def _keep(self, pull: _Pull, download: Download, labels: dict[str, str]) -> None:
        """Make a blob of a download once it is whole."""
        with pull.stages.at_work("download"):
            await download.whole()
        target = download.target
        await self._store.content.adopt(pull.scope, download.path, target.digest, target.size, labels)

    # The end.

    async def _record(self, pull: _Pull, resolved: Resolved, decision: Decision) -> Image:
        """The image; what the hold protected it protects now."""
        target = resolved.target
        await Tree(self._store, pull.scope).label(target, pull.needed)
        image = Image(pull.scope.namespace, pull.name, target, {**pull.request.labels, **label_of(decision)})
        return await self._store.write(lambda tx: self._store.put_image(tx, image))


async def _with(work: asyncio.Future[Any] | None, others: Sequence[asyncio.Task[None]]) -> None:
    """When `work` (or, without, all of `others`) is done. What fails first is raised, and `work` has ended then."""
    waiting: set[asyncio.Future[Any]] = set(others)
    if work is not None:
        waiting.add(work)
    try:
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()
            if work is not None and work.done():
                return
    finally:
        if work is not None and not work.done():
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)


def _is_document(media_type: str) -> bool:
    return is_index(media_type) or is_manifest(media_type)


def _source_labels(name: str) -> dict[str, str]:
    """Where a blob is from, as containerd notes it: a push to the same host can take it from there."""
    reference = references.parse(name)
    return {f"{_SOURCE_LABEL}{reference.domain}": reference.path}
