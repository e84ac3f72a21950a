"""From what an archive held to images: OCI layouts and Docker archives."""

from __future__ import annotations

from collections.abc import Sequence

from intermodal_core.contracts.common import Descriptor, Platform
from intermodal_core.errors import InvalidArgument, NotFound
from intermodal_oci import references
from intermodal_oci.model import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_LAYER_ZSTD,
    DOCKER_MANIFEST,
    DockerArchiveEntry,
    Manifest,
    decode_docker_archive,
    decode_index,
    encode,
    is_index,
    is_manifest,
)

from intermodal_images.archive import Archive
from intermodal_images.blobs import Blobs
from intermodal_images.tree import Tree

__all__ = ["Found", "images_of"]

_OCI_NAME = "org.opencontainers.image.ref.name"
_FULL_NAME = "io.containerd.image.name"

_MAGIC = {b"\x1f\x8b": DOCKER_LAYER_GZIP, b"\x28\xb5": DOCKER_LAYER_ZSTD}

#: An image's full name and what it points at.
Found = tuple[str, Descriptor]


async def images_of(archive: Archive, blobs: Blobs, names: Sequence[str]) -> list[Found]:
    """The images that an archive holds, under the names in it or those given.

    A Docker archive's manifests are written as blobs. Raises InvalidArgument when it is neither kind, or holds several
    images and one was named, or an image that nobody named.
    """
    full = [references.normalise(name) for name in names]
    if "index.json" in archive.documents:
        index = decode_index(archive.documents["index.json"], "index.json")
        found = [
            (_oci_name(each), each)
            for each in index.manifests
            if is_manifest(each.media_type) or is_index(each.media_type)
        ]
    elif "manifest.json" in archive.documents:
        found = []
        for entry in decode_docker_archive(archive.documents["manifest.json"]):
            target = await _docker_manifest(entry, archive, blobs)
            found += [(references.normalise(tag), target) for tag in entry.repo_tags] or [("", target)]
    else:
        raise InvalidArgument(
            "the archive has neither index.json (an OCI layout) nor manifest.json (a Docker archive): it is no image"
        )
    if not found:
        raise InvalidArgument("the archive holds no image")
    if full:
        if len({target.digest for _, target in found}) > 1:
            held = ", ".join(name or target.digest for name, target in found)
            raise InvalidArgument(f"the archive holds several images ({held}): they cannot all be named {full[0]}")
        return [(name, found[0][1]) for name in full]
    for name, target in found:
        if not name:
            raise InvalidArgument(f"the archive does not name the image {target.digest}: give a name (--name NAME)")
    return found


def _oci_name(target: Descriptor) -> str:
    full = target.annotations.get(_FULL_NAME, "")
    if full:
        return references.normalise(full)
    name = target.annotations.get(_OCI_NAME, "")
    # A bare word is a tag, and a tag alone names no image.
    return references.normalise(name) if "/" in name or ":" in name else ""


async def _docker_manifest(entry: DockerArchiveEntry, archive: Archive, blobs: Blobs) -> Descriptor:
    config_digest, config_size, _ = archive.blob(entry.config)
    layers = []
    for path in entry.layers:
        digest, size, first = archive.blob(path)
        layers.append(Descriptor(_MAGIC.get(first[:2], DOCKER_LAYER), digest, size))
    manifest = Manifest(
        schema_version=2,
        media_type=DOCKER_MANIFEST,
        config=Descriptor(DOCKER_CONFIG, config_digest, config_size),
        layers=tuple(layers),
    )
    data = encode(manifest)
    return Descriptor(DOCKER_MANIFEST, await blobs.put(data), len(data))


async def check_whole(tree: Tree, target: Descriptor, platform: Platform | None) -> set[str]:
    """The digests of all that an image needs, each of which is there.

    Of an index, a platform whose blobs are missing is passed over unless it is the one asked for. Raises
    InvalidArgument when nothing of it is whole.
    """
    try:
        return await tree.reachable(target, platform)
    except NotFound as error:
        raise InvalidArgument(f"the archive is not whole: {error}") from error
