"""What there is to know of an image: documents, layers, where it is unpacked, how it came to be."""

from __future__ import annotations

from typing import Any

import msgspec
from intermodal_core.contracts.common import Descriptor, Platform
from intermodal_core.contracts.managers.images import ImageStep, ImageView, LayerView
from intermodal_core.contracts.managers.store import Image, Scope, Store
from intermodal_core.errors import IntermodalError, NotFound
from intermodal_core.registry import Registry
from intermodal_oci.chain import chain_ids
from intermodal_oci.model import decode_index, is_index
from intermodal_oci.platforms import format_platform

from intermodal_images.tree import Tree

__all__ = ["history", "view"]


async def view(store: Store, registry: Registry, scope: Scope, image: Image, platform: Platform) -> ImageView:
    """All that is known; of an index, for one platform. Raises NotFound where its documents are not here."""
    tree = Tree(store, scope)
    there = [platform]
    if is_index(image.target.media_type):
        index = decode_index(await store.content.read(scope, image.target.digest), image.target.digest)
        there = [each.platform for each in index.manifests if each.platform is not None]
    target, manifest = await tree.manifest(image.target, platform)
    data, config = await tree.config(manifest)
    chain = chain_ids(config.rootfs.diff_ids)
    unpacked = []
    for record in registry.records("snapshotters"):
        if record.state == "ready" and chain:
            try:
                await store.snapshots.stat(scope, record.name, chain[-1])
            except IntermodalError:
                continue
            unpacked.append(record.name)
    layers = [
        LayerView(layer, diff_id, name, await _is_here(store, scope, layer))
        for layer, diff_id, name in zip(manifest.layers, config.rootfs.diff_ids, chain, strict=True)
    ]
    return ImageView(
        image,
        tuple(format_platform(each) for each in there),
        target,
        manifest.config,
        msgspec.json.decode(data, type=dict[str, Any]),
        tuple(layers),
        tuple(unpacked),
        target.size + manifest.config.size + sum(layer.size for layer in manifest.layers),
    )


async def history(store: Store, scope: Scope, image: Image, platform: Platform) -> list[ImageStep]:
    """How it came to be, the latest step first; each layer is of one step, the others changed the config alone."""
    tree = Tree(store, scope)
    _, manifest = await tree.manifest(image.target, platform)
    _, config = await tree.config(manifest)
    layers = list(manifest.layers)
    steps = []
    for step in config.history:
        layer = None if step.empty_layer or not layers else layers.pop(0)
        steps.append(
            ImageStep(
                step.created,
                step.created_by,
                step.comment,
                step.author,
                layer.digest if layer else "",
                layer.size if layer else 0,
            )
        )
    steps += [ImageStep(digest=layer.digest, size=layer.size) for layer in layers]  # which no step tells of
    return steps[::-1]


async def _is_here(store: Store, scope: Scope, layer: Descriptor) -> bool:
    try:
        await store.content.info(scope, layer.digest)
    except NotFound:
        return False
    return True
