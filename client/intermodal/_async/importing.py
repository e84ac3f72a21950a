"""Taking an archive's blobs into the content store."""

import os
from typing import IO

from intermodal_api.containerd.types import descriptor_pb2
from intermodal_core.errors import InvalidArgument
from intermodal_oci.references import normalise

from intermodal._archive import Named, opened
from intermodal._async.channel import AsyncChannel
from intermodal._async.content import write_blob


async def import_archive(
    channel: AsyncChannel, source: "str | os.PathLike[str] | IO[bytes]", name: str, lease: str
) -> "list[tuple[str, descriptor_pb2.Descriptor]]":
    """Store the archive's blobs under `lease`; return the images to make: full names and what they stand for."""
    full = normalise(name) if name else ""
    with opened(source) as archive:
        images = archive.images()
        named = [(full or image.name, image) for image in images]
        _check(named, full)
        for blob in archive.blobs.values():
            descriptor = blob.descriptor
            await write_blob(channel, descriptor.digest, descriptor.size, archive.pieces(blob), blob.labels, lease)
    return [
        (
            image_name,
            descriptor_pb2.Descriptor(
                media_type=image.target.media_type, digest=image.target.digest, size=image.target.size
            ),
        )
        for image_name, image in named
    ]


def _check(named: "list[tuple[str, Named]]", full: str) -> None:
    if not named:
        raise InvalidArgument("The archive has no image in it")
    if full and len({image.target.digest for _, image in named}) > 1:
        raise InvalidArgument(f"The archive has {len(named)} images; they cannot all be {full}: import without a name")
    if any(not image_name for image_name, _ in named):
        raise InvalidArgument("The archive does not say what its image is called; give a name")
