"""The same image with its layers compressed in another way: other blobs, and the same trees."""

from __future__ import annotations

import hashlib
import os
import secrets
import zlib
from typing import IO, Any, Final, cast

import msgspec
from intermodal_core.contracts.common import Descriptor, Platform
from intermodal_core.contracts.managers.images import Progress, Report
from intermodal_core.contracts.managers.store import Image, Scope, Store
from intermodal_core.errors import FailedPrecondition, InvalidArgument, from_os_error
from intermodal_oci import references
from intermodal_oci.model import OCI_LAYER, OCI_MANIFEST, encode, layer_compression

from intermodal_images.threads import on_thread
from intermodal_images.tree import Tree

__all__ = ["COMPRESSIONS", "convert"]

COMPRESSIONS: Final = ("gzip", "zstd", "none")
_PIECE: Final = 1 << 20
_SUFFIX: Final = {"gzip": "+gzip", "zstd": "+zstd", "none": ""}


async def convert(
    store: Store, scope: Scope, image: Image, name: str, to: str, platform: Platform, report: Report | None
) -> Image:
    """Record as `name` the manifest of one platform with every layer compressed as `to` says.

    Raises FailedPrecondition for a layer that is not what the image's config says.
    """
    if to not in COMPRESSIONS:
        raise InvalidArgument(f"there is no compression {to}; there are {', '.join(COMPRESSIONS)}")
    full = references.normalise(name)
    tree = Tree(store, scope)
    _, manifest = await tree.manifest(image.target, platform)
    _, config = await tree.config(manifest)
    layers = []
    for layer, diff_id in zip(manifest.layers, config.rootfs.diff_ids, strict=True):
        if report is not None:
            report(Progress("convert", layer.digest, 0, layer.size))
        layers.append(await _layer(store, scope, layer, diff_id, to))
        if report is not None:
            report(Progress("convert", layer.digest, layer.size, layer.size))
    # Docker's manifests have no type for every compression; OCI's have.
    data = encode(
        msgspec.structs.replace(
            manifest,
            media_type=OCI_MANIFEST,
            config=msgspec.structs.replace(manifest.config, media_type="application/vnd.oci.image.config.v1+json"),
            layers=tuple(layers),
        )
    )
    info = await store.content.write(scope, data)
    target = Descriptor(OCI_MANIFEST, info.digest, len(data))
    await tree.label(target, set())
    converted = Image(scope.namespace, full, target, image.labels)
    return await store.write(lambda tx: store.put_image(tx, converted))


async def _layer(store: Store, scope: Scope, layer: Descriptor, diff_id: str, to: str) -> Descriptor:
    if (layer_compression(layer.media_type) or "none") == to and layer.media_type.startswith(OCI_LAYER):
        await store.content.keep(scope, layer.digest)
        return layer
    source = await store.content.open(scope, layer.digest)
    path = os.path.join(await store.content.incoming(layer.size), f"convert-{secrets.token_hex(8)}")
    try:
        work = _Recompression(source, path, to)
        digest, size, found = await on_thread(work.run, work.stop)
        if found != diff_id:
            raise FailedPrecondition(
                f"the layer {layer.digest} unpacks to {found}, and the image's config says {diff_id}"
            )
        await store.content.adopt(scope, path, digest, size, {"containerd.io/uncompressed": diff_id})
        return Descriptor(f"{OCI_LAYER}{_SUFFIX[to]}", digest, size, layer.annotations)
    except OSError as error:
        raise from_os_error(error, f"converting the layer {layer.digest}") from error
    finally:
        os.close(source)
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass


class _Recompression:
    """One layer, on a thread."""

    def __init__(self, source: int, path: str, to: str) -> None:
        self._source = source
        self._path = path
        self._to = to
        self._stopped = False
        self._hash = hashlib.sha256()
        self._size = 0

    def stop(self) -> None:
        """Give up soon."""
        self._stopped = True

    def run(self) -> tuple[str, int, str]:
        """Digest and size of what was written, and the diff id."""
        import zstandard
        from isal import isal_zlib

        plain = hashlib.sha256()
        try:
            with (
                open(self._path, "xb") as self._file,
                os.fdopen(os.dup(self._source), "rb") as raw,
                _reader(raw) as reader,
            ):
                writer = self._writer()
                while (piece := reader.read(_PIECE)) and not self._stopped:
                    plain.update(piece)
                    writer.write(piece)
                if writer is not self:
                    writer.close()
        except (EOFError, zlib.error, isal_zlib.error, zstandard.ZstdError) as error:  # type: ignore[misc]
            raise FailedPrecondition(f"the layer cannot be read: {error}") from error
        return f"sha256:{self._hash.hexdigest()}", self._size, f"sha256:{plain.hexdigest()}"

    def write(self, data: bytes) -> int:
        """What compressors write to."""
        self._hash.update(data)
        self._size += len(data)
        self._file.write(data)
        return len(data)

    def flush(self) -> None:
        """What compressors ask for."""

    def _writer(self) -> Any:
        if self._to == "gzip":
            from isal import igzip

            return igzip.IGzipFile(fileobj=self, mode="wb", compresslevel=2, mtime=0)  # type: ignore[no-untyped-call]
        if self._to == "zstd":
            import zstandard

            compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
            return compressor.stream_writer(self, closefd=False)  # type: ignore[arg-type]
        return self


def _reader(raw: IO[bytes]) -> IO[bytes]:
    magic = os.pread(raw.fileno(), 4, 0)
    if magic.startswith(b"\x1f\x8b"):
        from isal import igzip

        file: Any = igzip.IGzipFile(fileobj=raw, mode="rb")  # type: ignore[no-untyped-call]
        return cast("IO[bytes]", file)
    if magic == b"\x28\xb5\x2f\xfd":
        import zstandard

        return zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
    return raw
