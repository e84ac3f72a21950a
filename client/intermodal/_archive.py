"""Reading image archives: an OCI layout or a Docker archive in a tar, as blobs and the names for them."""

import hashlib
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Final

from intermodal_core.contracts.common import Descriptor
from intermodal_core.errors import IntermodalError, InvalidArgument, from_os_error
from intermodal_oci import model
from intermodal_oci.references import normalise

PIECE: Final = 1 << 20
MAX_DOCUMENT: Final = 8 << 20
_NAME_KEYS: Final = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


@dataclass
class Blob:
    """A blob to store: where its bytes come from, and the labels that say what it refers to."""

    descriptor: Descriptor
    source: str | bytes
    """A member of the archive, or the bytes themselves."""
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Named:
    """An image of the archive, and what it calls itself ("" where it does not say)."""

    name: str
    target: Descriptor


class Archive:
    """An archive being read: `images()`, the blobs they need, each blob's bytes. Raises InvalidArgument throughout."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._members = {_clean(member.name): member for member in tar.getmembers()}
        self.blobs: dict[str, Blob] = {}
        """By digest; those that others refer to come first."""

    def images(self) -> list[Named]:
        """The images in it; fills `blobs`."""
        if "oci-layout" in self._members:
            return self._oci_images()
        if "manifest.json" in self._members:
            return [named for entry in self._docker_entries() for named in self._docker_image(entry)]
        raise InvalidArgument("The archive has neither oci-layout nor manifest.json: it is no image")

    def pieces(self, blob: Blob) -> Iterator[bytes]:
        """The blob's bytes."""
        if isinstance(blob.source, bytes):
            yield blob.source
            return
        with self._open(blob.source) as file:
            while data := file.read(PIECE):
                yield data

    def _oci_images(self) -> list[Named]:
        index = model.decode_index(self._document("index.json"), "index.json")
        for descriptor in index.manifests:
            self._add(descriptor)
        return [Named(_own_name(descriptor), descriptor) for descriptor in index.manifests]

    def _add(self, descriptor: Descriptor, depth: int = 0) -> bool:
        """Add a blob after what it refers to. Manifests of other platforms may be absent, as tools leave them out."""
        if descriptor.digest in self.blobs:
            return True
        path = "blobs/" + descriptor.digest.replace(":", "/", 1)
        if path not in self._members:
            return False
        if depth > 8:
            raise InvalidArgument("The archive's indexes lie too deep within one another")
        blob = Blob(descriptor, path)
        if model.is_index(descriptor.media_type):
            children = model.decode_index(self._document(path), descriptor.digest).manifests
            there = [child for child in children if self._add(child, depth + 1)]
            if not there:
                raise InvalidArgument(f"The archive has no manifest of the index {descriptor.digest}")
            blob.labels = {f"containerd.io/gc.ref.content.m.{at}": each.digest for at, each in enumerate(there)}
        elif model.is_manifest(descriptor.media_type):
            manifest = model.decode_manifest(self._document(path), descriptor.digest)
            for child in (manifest.config, *manifest.layers):
                if not self._add(child, depth + 1):
                    raise InvalidArgument(f"The archive lacks {child.digest}, which {descriptor.digest} names")
            blob.labels = manifest_labels(manifest)
        self._check_size(descriptor, path)
        self.blobs[descriptor.digest] = blob
        return True

    def _check_size(self, descriptor: Descriptor, path: str) -> None:
        size = self._member(path).size
        if size != descriptor.size:
            raise InvalidArgument(
                f"{descriptor.digest} has {size} bytes in the archive; it must have {descriptor.size}"
            )

    def _docker_entries(self) -> list[model.DockerArchiveEntry]:
        return model.decode_docker_archive(self._document("manifest.json"))

    def _docker_image(self, entry: model.DockerArchiveEntry) -> list[Named]:
        document = self._document(_clean(entry.config))
        model.decode_config(document, entry.config)
        config = Descriptor(model.OCI_CONFIG, _sha256([document]), len(document))
        self.blobs[config.digest] = Blob(config, document)
        layers = tuple(self._docker_layer(_clean(path)) for path in entry.layers)
        manifest = model.Manifest(schema_version=2, media_type=model.OCI_MANIFEST, config=config, layers=layers)
        encoded = model.encode(manifest)
        target = Descriptor(model.OCI_MANIFEST, _sha256([encoded]), len(encoded))
        self.blobs[target.digest] = Blob(target, encoded, manifest_labels(manifest))
        return [Named(normalise(tag), target) for tag in entry.repo_tags] or [Named("", target)]

    def _docker_layer(self, path: str) -> Descriptor:
        with self._open(path) as file:
            magic = file.read(4)
        media_type = model.OCI_LAYER
        if magic[:2] == b"\x1f\x8b":
            media_type = model.OCI_LAYER_GZIP
        elif magic == b"\x28\xb5\x2f\xfd":
            media_type = model.OCI_LAYER_ZSTD
        source = Blob(Descriptor(media_type, "", 0), path)
        layer = Descriptor(media_type, _sha256(self.pieces(source)), self._member(path).size)
        self.blobs[layer.digest] = Blob(layer, path)
        return layer

    def _document(self, path: str) -> bytes:
        with self._open(path) as file:
            data = file.read(MAX_DOCUMENT + 1)
        if len(data) > MAX_DOCUMENT:
            raise InvalidArgument(f"{path} of the archive has more than {MAX_DOCUMENT} bytes: it is no document")
        return data

    def _member(self, path: str) -> tarfile.TarInfo:
        """The file at a path; a link within the archive, as Docker writes for shared layers, is followed."""
        for _ in range(4):
            member = self._members.get(path)
            if member is None:
                raise InvalidArgument(f"The archive lacks {path}")
            if member.isreg():
                return member
            if member.issym():
                path = _clean(os.path.join(os.path.dirname(path), member.linkname))
            elif member.islnk():
                path = _clean(member.linkname)
            else:
                break
        raise InvalidArgument(f"{path} of the archive is not a file")

    def _open(self, path: str) -> IO[bytes]:
        file = self._tar.extractfile(self._member(path))
        if file is None:
            raise InvalidArgument(f"{path} of the archive is not a file")
        return file


def manifest_labels(manifest: model.Manifest) -> dict[str, str]:
    """What keeps a manifest's config and layers from the garbage collector."""
    labels = {f"containerd.io/gc.ref.content.l.{at}": layer.digest for at, layer in enumerate(manifest.layers)}
    return {"containerd.io/gc.ref.content.config": manifest.config.digest, **labels}


@contextmanager
def opened(source: "str | os.PathLike[str] | IO[bytes]") -> Iterator[Archive]:
    """The archive at a path or in an open file. Raises InvalidArgument; NotFound and such for a path."""
    with tempfile.TemporaryFile() as spool:
        try:
            if isinstance(source, (str, os.PathLike)):
                with tarfile.open(source, "r:*") as tar:
                    yield Archive(tar)
                return
            if not source.seekable():
                shutil.copyfileobj(source, spool)
                spool.seek(0)
            with tarfile.open(fileobj=source if source.seekable() else spool, mode="r:*") as tar:
                yield Archive(tar)
        except (tarfile.TarError, EOFError) as error:
            raise InvalidArgument(f"The archive cannot be read as a tar: {error}") from error
        except IntermodalError:
            raise
        except OSError as error:
            raise from_os_error(error, "read the image archive") from error


def _own_name(descriptor: Descriptor) -> str:
    """The full name that an index's entry gives itself; a bare tag such as `latest` is none."""
    for key in _NAME_KEYS:
        name = descriptor.annotations.get(key, "")
        if "/" in name or ":" in name:
            return normalise(name)
    return ""


def _clean(path: str) -> str:
    return os.path.normpath(path).lstrip("/")


def _sha256(pieces: "Iterator[bytes] | list[bytes]") -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return "sha256:" + digest.hexdigest()
