"""An image as a tree of documents in the store: indexes, manifests, config and layers."""

from __future__ import annotations

from intermodal_core.contracts.common import Descriptor, Platform
from intermodal_core.contracts.managers.store import Scope, Store
from intermodal_core.errors import InvalidArgument, NotFound
from intermodal_oci.children import children_labels
from intermodal_oci.model import ImageConfig, Manifest, decode_config, decode_index, decode_manifest, is_index
from intermodal_oci.platforms import choose, matches

__all__ = ["DEPTH", "Tree"]

#: Indexes within indexes that are followed.
DEPTH = 8


class Tree:
    """Reads one namespace's documents."""

    def __init__(self, store: Store, scope: Scope) -> None:
        self._store = store
        self._scope = scope

    async def manifest(self, target: Descriptor, platform: Platform) -> tuple[Descriptor, Manifest]:
        """The manifest for a platform, through as many indexes as it takes.

        Raises NotFound when there is none for it or a blob is missing, InvalidArgument for malformed documents.
        """
        for _ in range(DEPTH):
            data = await self._read(target)
            if not is_index(target.media_type):
                return target, decode_manifest(data, target.digest)
            target = choose(decode_index(data, target.digest).manifests, platform)
        raise InvalidArgument(f"the index {target.digest} lies more than {DEPTH} indexes deep")

    async def config(self, manifest: Manifest) -> tuple[bytes, ImageConfig]:
        """The config blob, as bytes and decoded. Raises InvalidArgument when layers and diff ids do not match."""
        data = await self._read(manifest.config)
        config = decode_config(data, manifest.config.digest)
        if len(config.rootfs.diff_ids) != len(manifest.layers):
            raise InvalidArgument(
                f"the image's config {manifest.config.digest} has {len(config.rootfs.diff_ids)} diff ids "
                f"for {len(manifest.layers)} layers"
            )
        return data, config

    async def reachable(self, target: Descriptor, platform: Platform | None, depth: int = 0) -> set[str]:
        """The digests of all that `target` needs, itself included; each is in the store.

        With a platform, of an index only what that platform needs must be there. Raises NotFound for a missing blob.
        """
        data = await self._read(target)
        if not is_index(target.media_type):
            manifest = decode_manifest(data, target.digest)
            await self.config(manifest)
            for each in manifest.layers:
                info = await self._store.content.info(self._scope, each.digest)
                if info.size != each.size:
                    raise InvalidArgument(
                        f"the layer {each.digest} has {info.size} bytes, and its manifest says {each.size}"
                    )
            return {target.digest, manifest.config.digest, *(each.digest for each in manifest.layers)}
        if depth >= DEPTH:
            raise InvalidArgument(f"the index {target.digest} lies more than {DEPTH} indexes deep")
        children = decode_index(data, target.digest).manifests
        needed = {target.digest}
        missing: NotFound | None = None
        for child in children:
            if platform is not None and child.platform is not None and not matches(platform, child.platform):
                continue
            try:
                needed |= await self.reachable(child, platform, depth + 1)
            except NotFound as error:
                missing = error
        if len(needed) == 1 and missing is not None:
            raise missing
        return needed

    async def label(self, target: Descriptor, needed: set[str]) -> None:
        """Put the references that keep children from being collected on index and manifests."""
        data = await self._read(target)
        if is_index(target.media_type):
            index = decode_index(data, target.digest)
            for child in index.manifests:
                if child.digest in needed:
                    await self.label(child, needed)
            labels = children_labels(index, needed)
        else:
            labels = children_labels(decode_manifest(data, target.digest))
        await self._store.content.update(self._scope, target.digest, labels, [f"labels.{key}" for key in labels])

    async def _read(self, target: Descriptor) -> bytes:
        data = await self._store.content.read(self._scope, target.digest)
        if target.size and len(data) != target.size:
            raise InvalidArgument(
                f"the blob {target.digest} has {len(data)} bytes, and its descriptor says {target.size}"
            )
        return data
