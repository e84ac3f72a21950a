"""Images: `client.images`."""

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import IO

from google.protobuf.field_mask_pb2 import FieldMask
from intermodal_api.containerd.services import images_pb2
from intermodal_core.errors import AlreadyExists, NotFound
from intermodal_oci import platforms
from intermodal_oci.model import ImageConfig
from intermodal_oci.references import familiar, normalise

from intermodal import _api
from intermodal._async.channel import AsyncChannel
from intermodal._async.importing import import_archive
from intermodal._async.leases import lease
from intermodal._async.resolving import Resolved, get_record, resolve, unpack
from intermodal._async.settings import default_snapshotter
from intermodal._decoding import moment


class AsyncImage:
    """A name that points to an image's content. Its fields are as of when it was fetched."""

    def __init__(self, channel: AsyncChannel, record: images_pb2.Image) -> None:
        self._channel, self._record = channel, record

    @property
    def name(self) -> str:
        """The full form, such as docker.io/library/busybox:latest."""
        return self._record.name

    @property
    def short_name(self) -> str:
        """The form that people type, such as busybox:latest."""
        return familiar(self.name)

    @property
    def digest(self) -> str:
        """Of the manifest or the index that the name stands for."""
        return self._record.target.digest

    @property
    def media_type(self) -> str:
        """Of what `digest` names."""
        return self._record.target.media_type

    @property
    def labels(self) -> dict[str, str]:
        """The labels of the name (not of the image's config)."""
        return dict(self._record.labels)

    @property
    def created_at(self) -> datetime:
        """When the name was made here."""
        return moment(self._record.created_at)

    async def config(self, platform: str = "") -> ImageConfig:
        """The image's config for `platform` (default: this machine's). Raises NotFound."""
        return (await self._resolve(platform)).config

    async def size(self, platform: str = "") -> int:
        """Bytes of the config and the layers as they are stored, for `platform`."""
        manifest = (await self._resolve(platform)).manifest
        return manifest.config.size + sum(layer.size for layer in manifest.layers)

    async def unpack(self, snapshotter: str = "", platform: str = "") -> None:
        """Make the snapshots that containers of it start from; `containers.create` does so where it must."""
        snapshotter = snapshotter or await default_snapshotter(self._channel)
        resolved = await self._resolve(platform)
        async with lease(self._channel) as held:
            await unpack(self._channel, resolved, snapshotter, held)

    async def tag(self, name: str) -> "AsyncImage":
        """Give the image a further name, which is taken from another image that has it."""
        return await AsyncImages(self._channel).tag(self.name, name)

    async def delete(self, *, sync: bool = False) -> None:
        """Remove the name. `sync`: return only after what nothing else needs is collected. Raises NotFound."""
        await AsyncImages(self._channel).delete(self.name, sync=sync)

    async def _resolve(self, platform: str) -> Resolved:
        wanted = platforms.parse(platform) if platform else platforms.host()
        return await resolve(self._channel, self._record.target, wanted)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self.digest}>"


class AsyncImages:
    """The images of a namespace."""

    def __init__(self, channel: AsyncChannel) -> None:
        self._channel = channel

    async def get(self, name: str) -> AsyncImage:
        """The image called `name`, in any form. Raises NotFound, which names other namespaces that have it."""
        return AsyncImage(self._channel, await get_record(self._channel, name))

    async def exists(self, name: str) -> bool:
        """Whether this namespace has it."""
        try:
            await self._channel.call(_api.IMAGE_GET, images_pb2.GetImageRequest(name=normalise(name)))
        except NotFound:
            return False
        return True

    async def list(self, filters: Sequence[str] = ()) -> Sequence[AsyncImage]:
        """Those that match any of the filters (containerd's grammar, such as `name~=busybox`), by name."""
        answer = await self._channel.call(_api.IMAGE_LIST, images_pb2.ListImagesRequest(filters=filters))
        return [AsyncImage(self._channel, record) for record in sorted(answer.images, key=lambda each: each.name)]

    async def tag(self, name: str, new_name: str) -> AsyncImage:
        """Let `new_name` stand for what `name` stands for, even where it stood for something else."""
        record = await get_record(self._channel, name)
        image = images_pb2.Image(name=normalise(new_name), target=record.target, labels=record.labels)
        return AsyncImage(self._channel, await put_image(self._channel, image))

    async def delete(self, name: str, *, sync: bool = False) -> None:
        """Remove the name. `sync`: return only after what nothing else needs is collected. Raises NotFound."""
        record = await get_record(self._channel, name)
        await self._channel.call(_api.IMAGE_DELETE, images_pb2.DeleteImageRequest(name=record.name, sync=sync))

    async def import_(
        self, source: "str | os.PathLike[str] | IO[bytes]", *, name: str = "", labels: Mapping[str, str] | None = None
    ) -> Sequence[AsyncImage]:
        """Take in an archive: an OCI layout or a Docker archive, as a tar that may be compressed with gzip or xz.

        Args:
            source: its path, or an open file. A pipe is copied to a temporary file first.
            name: what to call the image; default: as the archive says. Needed where it does not say.
            labels: for the names made here.

        Raises:
            InvalidArgument: no such archive, several images for one `name`, or none that says its own.
            DataLoss: a blob is not what its digest says.
        """
        async with lease(self._channel) as held:
            found = await import_archive(self._channel, source, name, held)
            images = [images_pb2.Image(name=full, target=target, labels=labels) for full, target in found]
            return [AsyncImage(self._channel, await put_image(self._channel, image)) for image in images]


async def put_image(channel: AsyncChannel, image: images_pb2.Image) -> images_pb2.Image:
    """Create the image, or point the name that is there to it."""
    try:
        return (await channel.call(_api.IMAGE_CREATE, images_pb2.CreateImageRequest(image=image))).image
    except AlreadyExists:
        mask = FieldMask(paths=["target", *(f"labels.{key}" for key in image.labels)])
        request = images_pb2.UpdateImageRequest(image=image, update_mask=mask)
        return (await channel.call(_api.IMAGE_UPDATE, request)).image
