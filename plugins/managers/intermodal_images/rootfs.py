"""One layer from a directory: deterministic for the same tree."""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

from intermodal_core.errors import InvalidArgument, from_os_error

from intermodal_images.blobs import Blobs

__all__ = ["pack"]

_XATTR = "SCHILY.xattr."


def pack(directory: str, blobs: Blobs, progress: Callable[[str], None]) -> tuple[str, str, int]:
    """Write the layer of a tree, gzip-compressed, on a thread; returns digest, diff id and compressed size.

    Names in order; owner and group by number; sockets are left out, and what is mounted below is not gone into.
    Raises NotFound, InvalidArgument when it is no directory.
    """
    from isal import igzip

    if not os.path.isdir(directory):
        raise InvalidArgument(f"{directory} is not a directory on the daemon's machine")
    writer = blobs.writer()
    diff_id = hashlib.sha256()

    class _Tee:
        def write(self, data: bytes) -> int:
            diff_id.update(data)
            compressed.write(data)  # type: ignore[no-untyped-call]
            return len(data)

    chunked = _Chunked(writer.write)
    with igzip.GzipFile(fileobj=chunked, mode="wb", compresslevel=1, mtime=0) as compressed:  # type: ignore[no-untyped-call]  # noqa: SIM117
        with tarfile.open(fileobj=_Tee(), mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 20) as tar:  # type: ignore[call-overload]
            for path, name in _walk(directory):
                try:
                    _add(tar, path, name)
                except OSError as error:
                    raise from_os_error(error, f"packing {path}") from error
                progress(name)
    chunked.flush()  # what closing the compressor wrote
    digest, size = writer.commit()
    return digest, f"sha256:{diff_id.hexdigest()}", size


class _Chunked:
    """Gathers a compressor's small writes; the store is told a mebibyte at a time."""

    def __init__(self, write: Callable[[bytes], Any]) -> None:
        self._write = write
        self._buffer = bytearray()

    def write(self, data: bytes) -> int:
        self._buffer += data
        if len(self._buffer) >= 1 << 20:
            self.flush()
        return len(data)

    def flush(self) -> None:
        if self._buffer:
            self._write(bytes(self._buffer))
            self._buffer.clear()


def _walk(directory: str) -> Iterator[tuple[str, str]]:
    """Paths and names within the layer, parents first, in order."""
    device = os.stat(directory).st_dev
    pending = [(os.path.realpath(directory), "")]
    while pending:
        path, name = pending.pop()
        if name:
            yield path, name
        status = os.lstat(path)
        if stat.S_ISDIR(status.st_mode) and status.st_dev == device:
            below = sorted(os.listdir(path), reverse=True)
            pending += [(os.path.join(path, each), f"{name}/{each}" if name else each) for each in below]


def _add(tar: tarfile.TarFile, path: str, name: str) -> None:
    info = tar.gettarinfo(path, name)
    if info is None:
        return  # a socket
    info.uname = info.gname = ""
    status = os.lstat(path)
    headers: dict[str, str] = {}
    if status.st_mtime_ns % 1_000_000_000:
        headers["mtime"] = f"{status.st_mtime_ns // 1_000_000_000}.{status.st_mtime_ns % 1_000_000_000:09}"
    if not stat.S_ISLNK(status.st_mode):
        for attribute in sorted(os.listxattr(path)):
            if attribute.startswith(("user.", "security.capability")) and not attribute.startswith("user.overlay."):
                value = os.getxattr(path, attribute)
                headers[_XATTR + attribute] = value.decode("utf-8", "surrogateescape")
    info.pax_headers = headers
    if info.isreg():
        with open(path, "rb") as file:
            tar.addfile(info, file)
    else:
        tar.addfile(info)
