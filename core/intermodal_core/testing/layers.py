"""Layers made in memory: tar archives of given entries, plain, gzip or zstd, good ones and bad ones."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Callable
from typing import Any, Final

__all__ = ["DOCKER", "FORMS", "OCI", "Entry", "digest_of", "entry", "form_of", "tar", "zstd", "zstd_zeros"]

OCI: Final = "application/vnd.oci.image.layer.v1.tar"
DOCKER: Final = "application/vnd.docker.image.rootfs.diff.tar"

Entry = tuple[tarfile.TarInfo, bytes]

_MTIME: Final = 1_700_000_000
_BLOCK: Final = 1 << 17  # the largest block of a zstd frame


def digest_of(data: bytes) -> str:
    """The digest that names `data`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def entry(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **fields: Any) -> Entry:
    """One entry; `fields` are attributes of `tarfile.TarInfo`."""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = len(data)
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    info.mtime = _MTIME
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def tar(*entries: Entry) -> bytes:
    """An archive of the entries, in their order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zstd(data: bytes) -> bytes:
    """One frame of blocks that are stored as they are (RFC 8878), for which Python's own library is enough."""
    blocks = [data[at : at + _BLOCK] for at in range(0, len(data), _BLOCK)] or [b""]
    return _frame([(0, len(block), block) for block in blocks])


def zstd_zeros(prefix: bytes, zeros: int) -> bytes:
    """One frame of `prefix` and so many zero bytes, four bytes for each 128 KiB of them; `zeros` is a multiple of that."""
    return _frame([(0, len(prefix), prefix), *[(1, _BLOCK, b"\0")] * (zeros // _BLOCK)])


def _frame(blocks: list[tuple[int, int, bytes]]) -> bytes:
    # No checksum, no dictionary, a window of 128 KiB: that is 1 << 10 + 7.
    parts = [b"\x28\xb5\x2f\xfd", b"\x00", bytes([7 << 3])]
    for number, (kind, size, content) in enumerate(blocks, 1):
        parts += [(size << 3 | kind << 1 | (number == len(blocks))).to_bytes(3, "little"), content]
    return b"".join(parts)


#: How the bytes of a layer are made, by the end of its media type.
FORMS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "": bytes,
    "gzip": lambda data: gzip.compress(data, 6, mtime=0),
    "zstd": zstd,
}


def form_of(media_type: str) -> str:
    """Which of `FORMS` a media type tells of, or "?" where it is none of them."""
    for end in ("gzip", "zstd"):
        if media_type.endswith((f".tar+{end}", f".tar.{end}")):
            return end
    return "" if media_type.endswith(".tar") else "?"
