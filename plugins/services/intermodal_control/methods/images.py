"""Methods about images."""

from __future__ import annotations

from typing import Any

import msgspec
from intermodal_core.background import finished
from intermodal_core.contracts.image_sources import Access
from intermodal_core.contracts.managers.images import CommitRequest, FromRootfs, PullRequest, PushRequest
from intermodal_core.errors import InvalidArgument

from intermodal_control.methods.room import Nothing, Params, Room
from intermodal_control.server import Call, Method

__all__ = ["ImageMethods"]


class ImportImages(Params):
    """`images.import`: an archive comes as a descriptor. `unpack`: a snapshotter, "" the default, null none."""

    names: tuple[str, ...] = ()
    platform: str = ""
    unpack: str | None = ""


class NamedImage(Params):
    """`images.remove`."""

    image: str


class TagImage(NamedImage):
    """`images.tag`."""

    name: str


class CommitContainer(Params):
    """`images.commit`; a container that runs stands still meanwhile, unless `pause` is false."""

    request: CommitRequest
    pause: bool = True


class ExportImages(Params):
    """`images.export`; one descriptor, to write to."""

    images: tuple[str, ...]
    format: str = "oci"
    platform: str = ""


class PlatformImage(NamedImage):
    """`images.inspect`, `images.history`."""

    platform: str = ""


class ConvertImage(PlatformImage):
    """`images.convert`; `to` is gzip, zstd or none."""

    name: str = ""
    to: str = "zstd"


class PruneImages(Params):
    """`images.prune`."""

    dry_run: bool = False


class MountImage(NamedImage):
    """`images.mount`; `key` names it for `images.unmount`."""

    key: str
    writable: bool = False
    snapshotter: str = ""


class UnmountImage(Params):
    """`images.unmount`."""

    key: str


class VerifyImage(NamedImage):
    """`images.verify`."""

    access: Access = Access()


class ExplainRegistry(Params):
    """`registry.explain`."""

    name: str
    access: Access = Access()


class ImageMethods(Room):
    """`images.*`."""

    def table(self) -> dict[str, Method]:
        """The rows."""
        return {
            "images.import": Method(self._import, cancel=True),
            "images.from_rootfs": Method(self._from_rootfs, cancel=True),
            "images.pull": Method(self._pull, cancel=True),
            "images.push": Method(self._push, cancel=True),
            "images.tag": Method(self._tag),
            "images.verify": Method(self._verify, cancel=True),
            "images.commit": Method(self._commit, cancel=True),
            "images.export": Method(self._export, cancel=True),
            "images.convert": Method(self._convert, cancel=True),
            "images.inspect": Method(self._inspect, cancel=True),
            "images.history": Method(self._history, cancel=True),
            "images.prune": Method(self._prune),
            "images.mount": Method(self._mount),
            "images.unmount": Method(self._unmount),
            "registry.explain": Method(self._explain, cancel=True),
            "images.list": Method(self._list_images, cancel=True),
            "images.remove": Method(self._remove_image),
        }

    async def _import(self, call: Call) -> Any:
        params = call.params(ImportImages)
        if len(call.descriptors) != 1:
            raise InvalidArgument("images.import takes one descriptor, of the archive")
        async with call.progress() as report:
            return await self._images.import_archive(
                call.scope,
                call.descriptors[0],
                names=params.names,
                platform=params.platform,
                unpack=params.unpack,
                report=report,
            )

    async def _from_rootfs(self, call: Call) -> Any:
        request = call.params(FromRootfs)
        async with call.progress() as report:
            return await self._images.from_rootfs(call.scope, request, report=report)

    async def _pull(self, call: Call) -> Any:
        request = call.params(PullRequest)
        async with call.progress() as report:
            return await self._images.pull(call.scope, request, report=report)

    async def _push(self, call: Call) -> Any:
        request = call.params(PushRequest)
        async with call.progress() as report:
            return await self._images.push(call.scope, request, report=report)

    async def _tag(self, call: Call) -> Any:
        params = call.params(TagImage)
        return await self._images.tag(call.scope, params.image, params.name)

    async def _commit(self, call: Call) -> Any:
        params = call.params(CommitContainer)
        view = await self._containers.get(call.scope, params.request.container)
        request = msgspec.structs.replace(params.request, container=view.id)
        if not params.pause or view.status != "running":
            return await self._images.commit(call.scope, request)
        await self._containers.pause(call.scope, view.id)
        try:
            return await self._images.commit(call.scope, request)
        finally:
            await finished(self._containers.resume(call.scope, view.id))

    async def _export(self, call: Call) -> None:
        params = call.params(ExportImages)
        if len(call.descriptors) != 1:
            raise InvalidArgument("images.export takes one descriptor, to write the archive to")
        async with call.progress() as report:
            await self._images.export(
                call.scope,
                params.images,
                call.descriptors[0],
                format=params.format,
                platform=params.platform,
                report=report,
            )

    async def _convert(self, call: Call) -> Any:
        params = call.params(ConvertImage)
        async with call.progress() as report:
            return await self._images.convert(
                call.scope, params.image, params.name, params.to, platform=params.platform, report=report
            )

    async def _inspect(self, call: Call) -> Any:
        params = call.params(PlatformImage)
        return await self._images.inspect(call.scope, params.image, platform=params.platform)

    async def _history(self, call: Call) -> Any:
        params = call.params(PlatformImage)
        return await self._images.history(call.scope, params.image, platform=params.platform)

    async def _prune(self, call: Call) -> Any:
        return await self._images.prune(call.scope, dry_run=call.params(PruneImages).dry_run)

    async def _mount(self, call: Call) -> Any:
        params = call.params(MountImage)
        return await self._images.mount(
            call.scope, params.image, params.key, writable=params.writable, snapshotter=params.snapshotter
        )

    async def _unmount(self, call: Call) -> None:
        await self._images.unmount(call.scope, call.params(UnmountImage).key)

    async def _verify(self, call: Call) -> Any:
        params = call.params(VerifyImage)
        return await self._images.verify(call.scope, params.image, params.access)

    async def _explain(self, call: Call) -> Any:
        params = call.params(ExplainRegistry)
        return await self._images.explain(params.name, params.access)

    async def _list_images(self, call: Call) -> Any:
        call.params(Nothing)
        return await self._images.select(call.scope)

    async def _remove_image(self, call: Call) -> Any:
        return await self._images.remove(call.scope, call.params(NamedImage).image)
