"""From an image's name to its config and layers on this machine's platform, and those unpacked."""

import secrets
import time
from typing import Final, NamedTuple

from intermodal_api.containerd.services import diff_pb2, images_pb2, snapshots_pb2
from intermodal_api.containerd.types import descriptor_pb2
from intermodal_core.contracts.common import Descriptor, Platform
from intermodal_core.errors import AlreadyExists, DataLoss, IntermodalError, InvalidArgument, NotFound
from intermodal_oci import model, platforms
from intermodal_oci.chain import chain_ids
from intermodal_oci.references import normalise

from intermodal import _api
from intermodal._async.channel import AsyncChannel
from intermodal._async.content import read_document, set_content_labels
from intermodal._async.elsewhere import other_namespaces

MAX_INDEXES: Final = 4
"""How deep an index may lie within others."""
UNPACK_TIMEOUT: Final = 1800.0
"""Seconds for one layer."""


class Resolved(NamedTuple):
    """An image for one platform."""

    manifest: model.Manifest
    config: model.ImageConfig
    config_digest: str
    chain: list[str]
    """The key of the snapshot of each layer, base layer first."""


async def get_record(channel: AsyncChannel, name: str) -> images_pb2.Image:
    """The image's record, by any form of its name. Raises NotFound, naming other namespaces that have it."""
    full = normalise(name)
    # A stranger's client may have stored it under the short form.
    for form in dict.fromkeys((full, name)):
        try:
            return (await channel.call(_api.IMAGE_GET, images_pb2.GetImageRequest(name=form))).image
        except NotFound:
            continue
    elsewhere = await other_namespaces(channel, _api.IMAGE_GET, images_pb2.GetImageRequest(name=full))
    raise NotFound(f"There is no image {full} in the namespace {channel.namespace}{elsewhere}")


async def resolve(channel: AsyncChannel, target: descriptor_pb2.Descriptor, platform: Platform) -> Resolved:
    """Follow `target` to the manifest for `platform`. Raises NotFound where there is none, or content is missing."""
    media_type, digest = target.media_type, target.digest
    for _ in range(MAX_INDEXES):
        document = await read_document(channel, digest)
        if not model.is_index(media_type):
            break
        chosen = platforms.choose(model.decode_index(document, digest).manifests, platform)
        media_type, digest = chosen.media_type, chosen.digest
    if not model.is_manifest(media_type):
        raise InvalidArgument(f"{digest} is of the type {media_type!r}, which is no image to run")
    manifest = model.decode_manifest(document, digest)
    config = model.decode_config(await read_document(channel, manifest.config.digest), manifest.config.digest)
    if len(config.rootfs.diff_ids) != len(manifest.layers):
        raise InvalidArgument(
            f"{digest} has {len(manifest.layers)} layers, its config {len(config.rootfs.diff_ids)} diff ids"
        )
    return Resolved(manifest, config, manifest.config.digest, chain_ids(config.rootfs.diff_ids))


async def unpack(channel: AsyncChannel, image: Resolved, snapshotter: str, lease: str) -> str:
    """Make the snapshots of the image's layers that are not there; return the key of the topmost ("" for none).

    Raises DataLoss where a layer is not what the config says; nothing half made stays.
    """
    top = image.chain[-1] if image.chain else ""
    if top and not await _is_unpacked(channel, snapshotter, top):
        for layer, diff_id, parent, key in zip(
            image.manifest.layers, image.config.rootfs.diff_ids, ["", *image.chain], image.chain, strict=False
        ):
            if not await _is_unpacked(channel, snapshotter, key):
                await _unpack_layer(channel, layer, diff_id, parent, key, snapshotter, lease)
    if top:
        # Whoever keeps the image keeps its snapshots, and may hand them to the collector with it.
        label = {f"containerd.io/gc.ref.snapshot.{snapshotter}": top}
        await set_content_labels(channel, image.config_digest, label)
    return top


async def _is_unpacked(channel: AsyncChannel, snapshotter: str, key: str) -> bool:
    try:
        await channel.call(_api.SNAPSHOT_STAT, snapshots_pb2.StatSnapshotRequest(snapshotter=snapshotter, key=key))
    except NotFound:
        return False
    return True


async def _unpack_layer(
    channel: AsyncChannel, layer: Descriptor, diff_id: str, parent: str, name: str, snapshotter: str, lease: str
) -> None:
    key = f"extract-{time.time_ns()}-{secrets.token_hex(3)} {name}"
    labels = {"containerd.io/snapshot.ref": name}
    prepare = snapshots_pb2.PrepareSnapshotRequest(snapshotter=snapshotter, key=key, parent=parent, labels=labels)
    try:
        mounts = (await channel.call(_api.SNAPSHOT_PREPARE, prepare, lease=lease)).mounts
    except AlreadyExists:
        return  # a snapshotter that has the layer without our unpacking it
    diff = descriptor_pb2.Descriptor(
        media_type=layer.media_type, digest=layer.digest, size=layer.size, annotations=layer.annotations
    )
    try:
        apply = diff_pb2.ApplyRequest(diff=diff, mounts=mounts)
        applied = (await channel.call(_api.DIFF_APPLY, apply, timeout=UNPACK_TIMEOUT, lease=lease)).applied
        if applied.digest != diff_id:
            raise DataLoss(f"The layer {layer.digest} unpacks to {applied.digest}; the image's config says {diff_id}")
        commit = snapshots_pb2.CommitSnapshotRequest(snapshotter=snapshotter, name=name, key=key, labels=labels)
        await channel.call(_api.SNAPSHOT_COMMIT, commit, lease=lease)
    except AlreadyExists:
        await remove_snapshot(channel, snapshotter, key)  # another client was faster
    except BaseException:
        await remove_snapshot(channel, snapshotter, key)
        raise
    await set_content_labels(channel, layer.digest, {"containerd.io/uncompressed": diff_id})


async def remove_snapshot(channel: AsyncChannel, snapshotter: str, key: str) -> None:
    """Remove a snapshot in the course of undoing; what fails here is left to the garbage collector."""
    try:
        request = snapshots_pb2.RemoveSnapshotRequest(snapshotter=snapshotter, key=key)
        await channel.call(_api.SNAPSHOT_REMOVE, request)
    except IntermodalError:
        pass
