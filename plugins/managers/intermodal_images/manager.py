"""The images manager."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from intermodal_core.contracts.common import Descriptor, Mount, Platform
from intermodal_core.contracts.image_sources import Access, Host
from intermodal_core.contracts.managers.images import (
    CommitRequest,
    Decision,
    FromRootfs,
    ImageStep,
    ImageView,
    Mounted,
    Progress,
    Pulled,
    PullRequest,
    PushRequest,
    Report,
    Unpacked,
)
from intermodal_core.contracts.managers.store import Image, Scope, Store
from intermodal_core.errors import IntermodalError, InvalidArgument, NotFound
from intermodal_core.registry import Registry
from intermodal_oci import platforms, references
from intermodal_oci.model import OCI_LAYER_GZIP

from intermodal_images.archive import Archive, read_archive
from intermodal_images.blobs import Blobs
from intermodal_images.converting import convert
from intermodal_images.downloads import Downloads
from intermodal_images.exporting import export
from intermodal_images.importing import check_whole, images_of
from intermodal_images.layering import Layering
from intermodal_images.looking import history, view
from intermodal_images.pulling import Puller
from intermodal_images.pushing import Pusher
from intermodal_images.threads import on_thread
from intermodal_images.tree import Tree
from intermodal_images.unpacker import Unpacker
from intermodal_images.verifying import Verifying

__all__ = ["ImagesManager"]

#: On the snapshots that `mount` makes.
_MOUNTED = "intermodal.io/mounted"


class ImagesManager:
    """Implements `intermodal_core.contracts.managers.images.Images`."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        downloads: int = 4,
        ranges: int = 4,
        ranged: int = 64 << 20,
        verify_at_run: bool = False,
    ) -> None:
        self._store = store
        self._registry = registry
        self._verify_at_run = verify_at_run
        self._unpacker = Unpacker(store, registry)
        self._verifying = Verifying(store, registry)
        self._puller = Puller(
            store, registry, self._unpacker, self._verifying, Downloads(store, downloads, ranges, ranged)
        )
        self._layering = Layering(store, registry)
        self._pusher = Pusher(store, registry, downloads)

    async def import_archive(
        self,
        scope: Scope,
        archive: int,
        *,
        names: Sequence[str] = (),
        platform: str = "",
        all_platforms: bool = False,
        unpack: str | None = "",
        report: Report | None = None,
    ) -> list[Image]:
        """Take an OCI layout or a Docker archive."""
        wanted = platforms.parse(platform) if platform else platforms.host()
        async with self._writing(scope) as blobs:
            return await self._import(blobs, archive, names, wanted, all_platforms, unpack, report)

    @asynccontextmanager
    async def _writing(self, scope: Scope) -> AsyncIterator[Blobs]:
        """The blobs of one import: none is collected before the images are recorded; what nothing needs then is."""
        async with self._store.leases.hold(scope, tidy=True) as held:
            blobs = Blobs(self._store, held, asyncio.get_running_loop())
            try:
                yield blobs
            finally:
                await asyncio.shield(blobs.close())

    async def _import(
        self,
        blobs: Blobs,
        archive: int,
        names: Sequence[str],
        wanted: Platform,
        all_platforms: bool,
        unpack: str | None,
        report: Report | None,
    ) -> list[Image]:
        loop, scope = asyncio.get_running_loop(), blobs.scope
        tree = Tree(self._store, scope)

        def read(count: int) -> None:
            if report is not None:
                loop.call_soon_threadsafe(report, Progress("read", "archive", count))

        held = await on_thread(_reading(archive, blobs, read), blobs.stop)
        found = await images_of(held, blobs, names)
        needed: set[str] = set()
        for _, target in found:
            needed |= await check_whole(tree, target, None if all_platforms else wanted)
        for _, target in found:
            await tree.label(target, needed)
        images = [Image(scope.namespace, name, _plain(target)) for name, target in found]
        if unpack is not None:  # first: an image whose layers cannot be unpacked is none
            for image in images:
                await self._unpacker.unpack(scope, image, unpack, wanted, report)
        return await self._store.write(lambda tx: [self._store.put_image(tx, image) for image in images])

    async def pull(self, scope: Scope, request: PullRequest, *, report: Report | None = None) -> Pulled:
        """Fetch, unpack and record."""
        return await self._puller.pull(scope, request, report)

    async def push(self, scope: Scope, request: PushRequest, *, report: Report | None = None) -> Image:
        """Send."""
        image = await self.resolve(scope, request.image)
        await self._pusher.push(scope, image, request, report)
        return image

    async def verify(self, scope: Scope, image: str, access: Access | None = None) -> Decision:
        """Ask the verifiers."""
        found = await self.resolve(scope, image)
        return await self._verifying.admit(scope, found.name, found.target, found.labels, access or Access())

    async def admit(self, scope: Scope, image: Image) -> None:
        """Ask the verifiers before a run, where that is wanted."""
        if self._verify_at_run:
            await self._verifying.admit(scope, image.name, image.target, image.labels, Access())

    async def explain(self, name: str, access: Access | None = None) -> list[Host]:
        """Which hosts, and what they say."""
        source = await self._registry.require("image_sources")
        hosts: list[Host] = await source.explain(references.normalise(name), access)
        return hosts

    async def tag(self, scope: Scope, image: str, name: str) -> Image:
        """One more name."""
        found = await self.resolve(scope, image)
        named = Image(scope.namespace, references.normalise(name), found.target, found.labels)
        return await self._store.write(lambda tx: self._store.put_image(tx, named))

    async def from_rootfs(self, scope: Scope, request: FromRootfs, *, report: Report | None = None) -> Image:
        """Make a one-layer image of a directory."""
        if report is not None:
            report(Progress("pack", request.directory))
        async with self._store.leases.hold(scope, tidy=True) as held:
            return await self._layering.from_rootfs(held, request)

    async def export(
        self,
        scope: Scope,
        images: Sequence[str],
        into: int,
        *,
        format: str = "oci",
        platform: str = "",
        report: Report | None = None,
    ) -> None:
        """Write an archive."""
        found = [await self.resolve(scope, image) for image in images]
        if not found:
            raise InvalidArgument("no image was named to be exported")
        one = platforms.parse(platform) if platform else None
        async with self._store.leases.hold(scope) as held:
            await export(self._store, held, found, into, format, one, one or platforms.host(), report)

    async def convert(
        self, scope: Scope, image: str, name: str, to: str, *, platform: str = "", report: Report | None = None
    ) -> Image:
        """Compress in another way."""
        found = await self.resolve(scope, image)
        wanted = platforms.parse(platform) if platform else platforms.host()
        async with self._store.leases.hold(scope, tidy=True) as held:
            return await convert(self._store, held, found, name, to, wanted, report)

    async def inspect(self, scope: Scope, image: str, *, platform: str = "") -> ImageView:
        """All that is known."""
        wanted = platforms.parse(platform) if platform else platforms.host()
        return await view(self._store, self._registry, scope, await self.resolve(scope, image), wanted)

    async def history(self, scope: Scope, image: str, *, platform: str = "") -> list[ImageStep]:
        """The steps."""
        wanted = platforms.parse(platform) if platform else platforms.host()
        return await history(self._store, scope, await self.resolve(scope, image), wanted)

    async def prune(self, scope: Scope, *, dry_run: bool = False) -> list[Image]:
        """Forget what no container uses."""
        used = {container.image for container in await self._store.containers.select(scope)}
        unused = [image for image in await self._store.images.select(scope) if image.name not in used]
        for image in unused if not dry_run else []:
            await self._store.images.delete(scope, image.name, image.target)
        if unused and not dry_run:
            await self._store.collector.collect()
        return unused

    async def mount(
        self, scope: Scope, image: str, key: str, *, writable: bool = False, snapshotter: str = ""
    ) -> Mounted:
        """A snapshot for the caller to mount."""
        found = await self.resolve(scope, image)
        unpacked = await self._unpacker.unpack(scope, found, snapshotter, platforms.host(), None)
        make = self._store.snapshots.prepare if writable else self._store.snapshots.view
        labels = {"containerd.io/gc.root": key, _MOUNTED: unpacked.snapshotter}
        mounts = await make(scope, unpacked.snapshotter, key, unpacked.chain_id, labels)
        return Mounted(unpacked.snapshotter, key, tuple(mounts))

    async def unmount(self, scope: Scope, key: str) -> None:
        """Drop the snapshot."""
        used = Path(self._registry.config.core.root) / "snapshotters"
        for record in self._registry.records("snapshotters"):
            if record.state not in ("ready", "available") or not (used / record.name).is_dir():
                continue
            try:
                info = await self._store.snapshots.stat(scope, record.name, key)
            except IntermodalError:
                continue  # not of this one, or one that cannot be used here
            if _MOUNTED in info.labels:
                await self._store.snapshots.remove(scope, record.name, key)
                return
        raise NotFound(f"no image is mounted at {key} in the namespace {scope.namespace}")

    async def commit(self, scope: Scope, request: CommitRequest) -> Image:
        """Make an image of a container."""
        async with self._store.leases.hold(scope, tidy=True) as held:
            return await self._layering.commit(held, request)

    async def compare(
        self,
        scope: Scope,
        lower: Sequence[Mount],
        upper: Sequence[Mount],
        media_type: str = "",
        labels: Mapping[str, str] | None = None,
        latest: int | None = None,
    ) -> Descriptor:
        """Make a layer."""
        made = await self._layering.compare(scope, lower, upper, media_type or OCI_LAYER_GZIP, labels, latest)
        return Descriptor(made.media_type, made.digest, made.size, {"containerd.io/uncompressed": made.diff_id})

    async def unpack(
        self, scope: Scope, name: str, snapshotter: str = "", *, platform: str = "", report: Report | None = None
    ) -> Unpacked:
        """Make the image's chain of snapshots."""
        image = await self._store.images.get(scope, name)
        wanted = platforms.parse(platform) if platform else platforms.host()
        return await self._unpacker.unpack(scope, image, snapshotter, wanted, report)

    async def apply(self, scope: Scope, layer: Descriptor, mounts: Sequence[Mount]) -> Descriptor:
        """Apply a layer onto mounts."""
        return await self._unpacker.apply(scope, layer, tuple(mounts))

    async def select(self, scope: Scope, filters: Sequence[str] = ()) -> list[Image]:
        """The image records."""
        return await self._store.images.select(scope, filters)

    async def resolve(self, scope: Scope, reference: str) -> Image:
        """The image that a user's reference means."""
        try:
            return await self._store.images.get(scope, reference)
        except NotFound as as_written:
            try:
                full = references.normalise(reference)
            except InvalidArgument:
                raise as_written from None
            return await self._store.images.get(scope, full)

    async def remove(self, scope: Scope, reference: str) -> Image:
        """Delete the record."""
        image = await self.resolve(scope, reference)
        await self._store.images.delete(scope, image.name)
        return image


def _reading(archive: int, blobs: Blobs, progress: Callable[[int], None]) -> Callable[[], Archive]:
    """`read_archive` on a descriptor of its own: the caller's may be closed before the thread has noticed."""
    own = os.dup(archive)

    def read() -> Archive:
        try:
            return read_archive(own, blobs, progress)
        finally:
            os.close(own)

    return read


def _plain(target: Descriptor) -> Descriptor:
    """A descriptor as an image record keeps it: what the archive called it is the record's name."""
    return Descriptor(target.media_type, target.digest, target.size)
