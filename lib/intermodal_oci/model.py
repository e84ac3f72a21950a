"""The JSON documents of an image: index, manifest, config; their media types; decoding that says what is wrong.

After the OCI image specification 1.1 and Docker's image manifest v2 schema 2, which share their fields. A null
counts as absent, as it does for the Go programs that write most of these files; unknown fields are ignored.
"""

from collections.abc import Iterable
from typing import Any, Final, TypeVar

import msgspec
from intermodal_core.contracts.common import Descriptor, Platform
from intermodal_core.errors import InvalidArgument

from intermodal_oci.references import validate_digest

__all__ = [
    "DOCKER_CONFIG",
    "DOCKER_FOREIGN_LAYER_GZIP",
    "DOCKER_INDEX",
    "DOCKER_LAYER",
    "DOCKER_LAYER_GZIP",
    "DOCKER_LAYER_ZSTD",
    "DOCKER_MANIFEST",
    "MAX_DOCUMENT",
    "OCI_CONFIG",
    "OCI_FOREIGN_LAYER",
    "OCI_INDEX",
    "OCI_LAYER",
    "OCI_LAYER_GZIP",
    "OCI_LAYER_ZSTD",
    "OCI_MANIFEST",
    "ContainerConfig",
    "DockerArchiveEntry",
    "History",
    "ImageConfig",
    "Index",
    "Layout",
    "Manifest",
    "RootFS",
    "decode_config",
    "decode_docker_archive",
    "decode_index",
    "decode_manifest",
    "encode",
    "is_config",
    "is_index",
    "is_layer",
    "is_manifest",
    "layer_compression",
]

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP: Final = OCI_LAYER + "+gzip"
OCI_LAYER_ZSTD: Final = OCI_LAYER + "+zstd"
OCI_FOREIGN_LAYER: Final = "application/vnd.oci.image.layer.nondistributable.v1.tar"

DOCKER_INDEX: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP: Final = DOCKER_LAYER + ".gzip"
DOCKER_LAYER_ZSTD: Final = DOCKER_LAYER + ".zstd"
DOCKER_FOREIGN_LAYER_GZIP: Final = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"

MAX_DOCUMENT: Final = 8 << 20
"""Bytes in a document at most; read no more than this plus one to decode it."""

_LAYERS: Final[dict[str, str | None]] = {
    OCI_LAYER: None,
    OCI_LAYER_GZIP: "gzip",
    OCI_LAYER_ZSTD: "zstd",
    OCI_FOREIGN_LAYER: None,
    OCI_FOREIGN_LAYER + "+gzip": "gzip",
    OCI_FOREIGN_LAYER + "+zstd": "zstd",
    DOCKER_LAYER: None,
    DOCKER_LAYER_GZIP: "gzip",
    DOCKER_LAYER_ZSTD: "zstd",
    DOCKER_FOREIGN_LAYER_GZIP: "gzip",
}


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """One image for one platform: its config and its layers, base layer first."""

    schema_version: int
    media_type: str = ""
    artifact_type: str = ""
    config: Descriptor
    layers: tuple[Descriptor, ...] = ()
    subject: Descriptor | None = None
    annotations: dict[str, str] = {}


class Index(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Several manifests under one digest, a platform each; also `index.json` of an OCI layout."""

    schema_version: int
    media_type: str = ""
    artifact_type: str = ""
    manifests: tuple[Descriptor, ...] = ()
    subject: Descriptor | None = None
    annotations: dict[str, str] = {}


class ContainerConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="pascal"):
    """How a container of the image is run where its user says nothing else."""

    user: str = ""
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    working_dir: str = ""
    labels: dict[str, str] = {}
    volumes: dict[str, dict[str, Any]] = {}
    exposed_ports: dict[str, dict[str, Any]] = {}
    stop_signal: str = ""


class RootFS(msgspec.Struct, frozen=True, kw_only=True):
    """The digests of the uncompressed layers, base layer first."""

    type: str = "layers"
    diff_ids: tuple[str, ...] = ()


class History(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a layer came to be; `empty_layer` where the step made none."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The config blob of an image: its platform, its layers' diff ids, and how to run it."""

    created: str = ""
    author: str = ""
    architecture: str = ""
    os: str = ""
    variant: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: tuple[str, ...] = msgspec.field(default=(), name="os.features")
    config: ContainerConfig = msgspec.field(default_factory=ContainerConfig)
    rootfs: RootFS = msgspec.field(default_factory=RootFS)
    history: tuple[History, ...] = ()

    @property
    def platform(self) -> Platform:
        """What the image says it runs on; empty strings where it does not say."""
        return Platform(self.os, self.architecture, self.variant, self.os_version, self.os_features)


class Layout(msgspec.Struct, frozen=True, rename="camel"):
    """The file `oci-layout` that marks a directory or archive as an OCI layout."""

    image_layout_version: str = "1.0.0"


class DockerArchiveEntry(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """One image in `manifest.json` of a Docker archive: paths inside the archive, and names."""

    config: str
    repo_tags: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()


T = TypeVar("T")


def is_index(media_type: str) -> bool:
    """Whether a blob of this type is an index (Docker: manifest list)."""
    return media_type in (OCI_INDEX, DOCKER_INDEX)


def is_manifest(media_type: str) -> bool:
    """Whether a blob of this type is an image manifest."""
    return media_type in (OCI_MANIFEST, DOCKER_MANIFEST)


def is_config(media_type: str) -> bool:
    """Whether a blob of this type is an image config."""
    return media_type in (OCI_CONFIG, DOCKER_CONFIG)


def is_layer(media_type: str) -> bool:
    """Whether a blob of this type is a layer that can be unpacked."""
    return media_type in _LAYERS


def layer_compression(media_type: str) -> str | None:
    """How a layer of this type is compressed: "gzip", "zstd", or None for a plain tar.

    Raises InvalidArgument where the type is no layer's.
    """
    try:
        return _LAYERS[media_type]
    except KeyError:
        raise InvalidArgument(f"Media type {media_type!r} is not that of a layer that can be unpacked") from None


def decode_manifest(data: bytes, name: str) -> Manifest:
    """Decode an image manifest; `name` (its digest) is what an error calls it.

    Raises InvalidArgument: not JSON, larger than MAX_DOCUMENT, not schema version 2, not a manifest, a manifest
    and an index in one (which clients would read differently), or a descriptor with a bad digest or size.
    """
    manifest = _decode_schema2(data, name, Manifest, "manifests")
    _check_descriptors((manifest.config, *manifest.layers), name)
    return manifest


def decode_index(data: bytes, name: str) -> Index:
    """Decode an index or manifest list, or `index.json` of a layout; errors as in `decode_manifest`."""
    index = _decode_schema2(data, name, Index, "layers", "config")
    _check_descriptors(index.manifests, name)
    return index


def decode_config(data: bytes, name: str) -> ImageConfig:
    """Decode an image config. Raises InvalidArgument: not JSON, too large, a wrong type, or a bad diff id."""
    config = _convert(_parse(data, name), name, ImageConfig, "image config")
    _check_digests(config.rootfs.diff_ids, name)
    return config


def decode_docker_archive(data: bytes, name: str = "manifest.json") -> list[DockerArchiveEntry]:
    """Decode `manifest.json` of a Docker archive. Raises InvalidArgument."""
    return _convert(_parse(data, name), name, list[DockerArchiveEntry], "list of images")


def encode(document: Manifest | Index | ImageConfig | Layout) -> bytes:
    """The document as JSON; equal documents give equal bytes, and so equal digests."""
    return msgspec.json.encode(document)


def _decode_schema2(data: bytes, name: str, kind: type[T], *foreign: str) -> T:
    document = _parse(data, name)
    what = kind.__name__.lower()
    if isinstance(document, dict):
        both = [field for field in foreign if field in document]
        if both:
            raise InvalidArgument(f"{name} is no {what}: it has the field {both[0]!r}")
        version = document.get("schemaVersion")
        if version != 2:
            raise InvalidArgument(f"{name} is no {what} of schema version 2 (schemaVersion is {version!r})")
    return _convert(document, name, kind, what)


def _check_descriptors(descriptors: tuple[Descriptor, ...], name: str) -> None:
    _check_digests((descriptor.digest for descriptor in descriptors), name)
    for descriptor in descriptors:
        if descriptor.size < 0:
            raise InvalidArgument(f"{name} gives {descriptor.digest} a size of {descriptor.size} bytes")


def _check_digests(digests: Iterable[str], name: str) -> None:
    """A digest names files in stores, so that none may pass which is more than algorithm and hex."""
    for digest in digests:
        try:
            validate_digest(digest)
        except InvalidArgument as error:
            raise InvalidArgument(f"In {name}: {error}") from None


def _parse(data: bytes, name: str) -> object:
    if len(data) > MAX_DOCUMENT:
        raise InvalidArgument(f"{name} has {len(data)} bytes; the limit is {MAX_DOCUMENT}")
    try:
        return _without_nulls(msgspec.json.decode(data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgument(f"{name} is not valid JSON: {error}") from None


def _convert(document: object, name: str, kind: type[T], what: str) -> T:
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"{name} is no {what}: {error}") from None


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_nulls(inner) for inner in value]
    return value
