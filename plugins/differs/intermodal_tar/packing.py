"""Changes as a tar archive, compressed and hashed while it is made.

The same trees give the same bytes: names are in order, owners are numbers, and the time of what is hidden is the one that is
given, or the epoch. A time that is given is also the latest that anything in the layer has.
"""

from __future__ import annotations

import hashlib
import os
import queue
import stat
import tarfile
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import zstandard
from intermodal_core.contracts.differs import Compared
from isal import igzip

from intermodal_tar.changes import Change
from intermodal_tar.media_types import MEDIA_TYPES

__all__ = ["pack"]

_PIECE: Final = 1 << 20
_BLOCK: Final = 512
_RECORD: Final = 20 * _BLOCK
_AHEAD: Final = 4
_SECOND: Final = 1_000_000_000
_XATTR: Final = "SCHILY.xattr."
_KEPT: Final = ("user.", "system.posix_acl_", "security.capability")
_TYPES: Final = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}


class _Writes(Protocol):
    def write(self, data: bytes, /) -> object: ...


def pack(changes: Sequence[Change], top: int, into: int, media_type: str, latest: int | None) -> Compared:
    """Write the layer of `changes`, in the tree open as `top`, to the descriptor `into`; `latest` in ns."""
    output = _Output(into, media_type)
    archive = _Archive(top, output.write, latest)
    try:
        for change in changes:
            archive.add(change)
        archive.end()
    finally:
        output.finish()
    return output.compared(media_type)


class _Archive:
    """Turns changes into headers and contents."""

    def __init__(self, top: int, write: Callable[[bytes], None], latest: int | None) -> None:
        self._top = top
        self._write = write
        self._latest = latest
        self._links: dict[tuple[int, int], bytes] = {}
        self._size = 0

    def add(self, change: Change) -> None:
        """One change."""
        parent, _, name = change.path.rpartition(b"/")
        directory = self._open(parent)
        try:
            if change.status is None:
                self._hide(parent, name)
            else:
                self._entry(change.path, name, directory, change.status)
        finally:
            os.close(directory)

    def end(self) -> None:
        """The zeros at the end."""
        self._out(bytes(2 * _BLOCK))
        self._out(bytes(-self._size % _RECORD))

    def _hide(self, parent: bytes, name: bytes) -> None:
        info = tarfile.TarInfo(os.fsdecode(parent + b"/.wh." + name if parent else b".wh." + name))
        info.mode = 0o644
        info.mtime = (self._latest or 0) // _SECOND
        self._header(info)

    def _entry(self, path: bytes, name: bytes, directory: int, status: os.stat_result) -> None:
        kind = stat.S_IFMT(status.st_mode)
        info = tarfile.TarInfo(os.fsdecode(path or b"."))
        info.type = _TYPES[kind]
        info.mode = stat.S_IMODE(status.st_mode)
        info.uid, info.gid = status.st_uid, status.st_gid
        mtime = status.st_mtime_ns if self._latest is None else min(status.st_mtime_ns, self._latest)
        info.mtime = mtime // _SECOND
        headers: dict[str, str] = {}
        if mtime % _SECOND:
            headers["mtime"] = f"{mtime // _SECOND}.{mtime % _SECOND:09}"
        if kind in (stat.S_IFCHR, stat.S_IFBLK):
            info.devmajor, info.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
        if kind == stat.S_IFLNK:
            info.linkname = os.fsdecode(os.readlink(name, dir_fd=directory))
        if kind != stat.S_IFDIR and status.st_nlink > 1:
            first = self._links.setdefault((status.st_dev, status.st_ino), path)
            if first != path:
                info.type, info.linkname = tarfile.LNKTYPE, os.fsdecode(first)
                self._header(info, headers)
                return
        if kind not in (stat.S_IFREG, stat.S_IFDIR):
            self._header(info, headers)
            return
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(name or b".", flags, dir_fd=directory)
        try:
            for attribute in sorted(os.listxattr(fd)):
                if attribute.startswith(_KEPT) and not attribute.startswith("user.overlay."):
                    value = os.getxattr(fd, attribute)
                    headers[_XATTR + attribute] = value.decode("utf-8", "surrogateescape")
            if kind == stat.S_IFREG:
                info.size = status.st_size
            self._header(info, headers)
            if kind == stat.S_IFREG:
                self._content(fd, status.st_size)
        finally:
            os.close(fd)

    def _content(self, fd: int, size: int) -> None:
        """As many bytes as the header says, whatever somebody does to the file meanwhile."""
        at = 0
        while at < size:
            data = os.pread(fd, min(_PIECE, size - at), at) or bytes(min(_PIECE, size - at))
            self._out(data)
            at += len(data)
        self._out(bytes(-size % _BLOCK))

    def _header(self, info: tarfile.TarInfo, headers: dict[str, str] | None = None) -> None:
        info.pax_headers = headers or {}
        self._out(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))

    def _out(self, data: bytes) -> None:
        if data:
            self._size += len(data)
            self._write(data)

    def _open(self, path: bytes) -> int:
        """The directory at `path`, through no link."""
        fd = os.dup(self._top)
        for name in path.split(b"/") if path else []:
            try:
                below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            finally:
                os.close(fd)
            fd = below
        return fd


class _Output:
    """Gathers small writes; a thread hashes, compresses and writes them, some pieces behind."""

    def __init__(self, into: int, media_type: str) -> None:
        self._into = into
        self._compression = MEDIA_TYPES[media_type] or ("gzip" if media_type.endswith(".gzip") else "plain")
        self._plain, self._packed = hashlib.sha256(), hashlib.sha256()
        self._sizes = [0, 0]
        self._gathered = bytearray()
        self._pieces: queue.Queue[bytes | None] = queue.Queue(_AHEAD)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="compress", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Take some of the archive. Raises what writing it has failed with."""
        if self._failure is not None:
            raise self._failure
        self._gathered += data
        if len(self._gathered) >= _PIECE:
            self._pieces.put(bytes(self._gathered))
            self._gathered.clear()

    def finish(self) -> None:
        """Write what is left, and wait. Raises what writing it has failed with."""
        self._pieces.put(bytes(self._gathered))
        self._pieces.put(None)
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def compared(self, media_type: str) -> Compared:
        """What was written."""
        return Compared(
            media_type,
            f"sha256:{self._packed.hexdigest()}",
            self._sizes[1],
            f"sha256:{self._plain.hexdigest()}",
            self._sizes[0],
        )

    def _run(self) -> None:
        compressor: Any = None
        try:
            compressor = self._compressor()
            while (piece := self._pieces.get()) is not None:
                self._plain.update(piece)
                self._sizes[0] += len(piece)
                compressor.write(piece)
            if compressor is not self:
                compressor.close()
        except BaseException as error:
            self._failure = error
            while self._pieces.get() is not None:
                pass

    def _compressor(self) -> Any:
        sink = _Sink(self._emit)
        if self._compression == "gzip":
            return igzip.IGzipFile(fileobj=sink, mode="wb", compresslevel=1, mtime=0)  # type: ignore[no-untyped-call]
        if self._compression == "zstd":
            return zstandard.ZstdCompressor(level=3, write_checksum=True).stream_writer(sink, closefd=False)  # type: ignore[arg-type]
        return sink

    def _emit(self, data: bytes) -> None:
        self._packed.update(data)
        self._sizes[1] += len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._into, view) :]


class _Sink:
    """A file as far as compressors need one."""

    def __init__(self, emit: Callable[[bytes], None]) -> None:
        self._emit = emit

    def write(self, data: bytes) -> int:
        """Pass it on."""
        self._emit(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is kept back."""

    def close(self) -> None:
        """Nothing to do."""
