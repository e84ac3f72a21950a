"""The layer media types of OCI and Docker, and what they promise of the bytes."""

from __future__ import annotations

from typing import Final

from intermodal_core.errors import InvalidArgument

__all__ = ["MEDIA_TYPES", "compression_of"]

#: What each media type promises; None where it cannot be trusted: Docker's tools have written the gzip type over plain
#: and zstd data for years, so its magic tells, as in every peer.
MEDIA_TYPES: Final[dict[str, str | None]] = {
    "application/vnd.oci.image.layer.v1.tar": "plain",
    "application/vnd.oci.image.layer.v1.tar+gzip": "gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd": "zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar": "plain",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": "gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd": "zstd",
    "application/vnd.docker.image.rootfs.diff.tar": None,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": None,
    "application/vnd.docker.image.rootfs.diff.tar.zstd": None,
    "application/vnd.docker.image.rootfs.foreign.diff.tar": None,
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": None,
}

_GZIP: Final = b"\x1f\x8b\x08"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"


def compression_of(media_type: str, magic: bytes) -> str:
    """`plain`, `gzip` or `zstd`: by media type, verified by the stream's first four bytes. Raises InvalidArgument."""
    found = "gzip" if magic[:3] == _GZIP else "zstd" if _is_zstd(magic) else "plain"
    told = MEDIA_TYPES[media_type]
    if told is None or told == found:
        return found
    raise InvalidArgument(
        f"The layer's media type {media_type} says {told}, but its first bytes ({magic[:4].hex()}) are those of {found}; "
        "the image is damaged or was pushed with the wrong media type"
    )


def _is_zstd(magic: bytes) -> bool:
    # A skippable frame may come first: 0x184D2A5? in little endian.
    return magic == _ZSTD or (len(magic) == 4 and magic[1:] == b"\x2a\x4d\x18" and magic[0] & 0xF0 == 0x50)
