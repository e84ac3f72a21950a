"""Methods about images."""

from __future__ import annotations

from typing import Any

from intermodal_core.contracts.managers.images import FromRootfs
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


class ImageMethods(Room):
    """`images.*`."""

    def table(self) -> dict[str, Method]:
        """The rows."""
        return {
            "images.import": Method(self._import, cancel=True),
            "images.from_rootfs": Method(self._from_rootfs, cancel=True),
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

    async def _list_images(self, call: Call) -> Any:
        call.params(Nothing)
        return await self._images.select(call.scope)

    async def _remove_image(self, call: Call) -> Any:
        return await self._images.remove(call.scope, call.params(NamedImage).image)
