"""Changes as a tar archive, compressed and hashed while it is made.

The same trees give the same bytes: names are in order, owners are numbers, and the time of what is hidden is the one that is
given, or the epoch. A time that is given is also the latest that anything in the layer has.
"""

from __future__ import annotations

import hashlib
import os
import queue
import stat
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

import zstandard
from intermodal_core.contracts.differs import Compared
from isal import igzip

from intermodal_tar.changes import Change
from intermodal_tar.headers import header
from intermodal_tar.media_types import MEDIA_TYPES

__all__ = ["pack"]

_PIECE: Final = 1 << 20
_BLOCK: Final = 512
_RECORD: Final = 20 * _BLOCK
_AHEAD: Final = 4
_SECOND: Final = 1_000_000_000
_XATTR: Final = b"SCHILY.xattr."
_KEPT: Final = ("user.", "system.posix_acl_", "security.capability")
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_TYPES: Final = {
    stat.S_IFREG: b"0",
    stat.S_IFLNK: b"2",
    stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4",
    stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}


def pack(changes: Sequence[Change], top: int, into: int, media_type: str, latest: int | None) -> Compared:
    """Write the layer of `changes`, in the tree open as `top`, to the descriptor `into`; `latest` in ns."""
    output = _Output(into, media_type)
    archive = _Archive(top, output.write, latest)
    try:
        for change in changes:
            archive.add(change)
        archive.end()
    finally:
        archive.close()
        output.finish()
    return output.compared(media_type)


class _Archive:
    """Turns changes into headers and contents."""

    def __init__(self, top: int, write: Callable[[bytes], None], latest: int | None) -> None:
        self._top = top
        self._write = write
        self._latest = latest
        self._links: dict[tuple[int, int], bytes] = {}
        self._open: tuple[bytes, int] | None = None
        self._size = 0

    def add(self, change: Change) -> None:
        """One change."""
        parent, _, name = change.path.rpartition(b"/")
        if change.status is None:
            hidden = parent + b"/.wh." + name if parent else b".wh." + name
            self._out(header(hidden, b"0", 0o644, mtime=(self._latest or 0) // _SECOND * _SECOND))
        else:
            self._entry(change.path, name, self._directory(parent), change.status)

    def close(self) -> None:
        """Let go of the directory that is open."""
        if self._open is not None:
            os.close(self._open[1])
            self._open = None

    def end(self) -> None:
        """The zeros at the end."""
        self._out(bytes(2 * _BLOCK))
        self._out(bytes(-self._size % _RECORD))

    def _entry(self, path: bytes, name: bytes, directory: int, status: os.stat_result) -> None:
        kind = stat.S_IFMT(status.st_mode)
        type_, size, link, records = _TYPES[kind], 0, b"", {}
        device = (0, 0)
        if kind in (stat.S_IFCHR, stat.S_IFBLK):
            device = (os.major(status.st_rdev), os.minor(status.st_rdev))
        if kind == stat.S_IFLNK:
            link = os.readlink(name, dir_fd=directory)
        if kind != stat.S_IFDIR and status.st_nlink > 1:
            first = self._links.setdefault((status.st_dev, status.st_ino), path)
            if first != path:
                type_, link = b"1", first
        fd = -1
        if type_ in (b"0", b"5"):
            fd = os.open(name or b".", _READ, dir_fd=directory)
        try:
            if fd >= 0:
                records = _attributes(fd)
                size = status.st_size if type_ == b"0" else 0
            mtime = status.st_mtime_ns if self._latest is None else min(status.st_mtime_ns, self._latest)
            mode, uid, gid = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
            self._out(header(path or b".", type_, mode, uid, gid, size, mtime, link, device, records))
            if size:
                self._content(fd, size)
        finally:
            if fd >= 0:
                os.close(fd)

    def _content(self, fd: int, size: int) -> None:
        """As many bytes as the header says, whatever somebody does to the file meanwhile."""
        at = 0
        while at < size:
            data = os.pread(fd, min(_PIECE, size - at), at) or bytes(min(_PIECE, size - at))
            self._out(data)
            at += len(data)
        self._out(bytes(-size % _BLOCK))

    def _out(self, data: bytes) -> None:
        if data:
            self._size += len(data)
            self._write(data)

    def _directory(self, path: bytes) -> int:
        """The directory at `path`, through no link; it stays open, since the next change is likely to be in it, too."""
        if self._open is not None and self._open[0] == path:
            return self._open[1]
        fd = os.dup(self._top)
        for name in path.split(b"/") if path else []:
            try:
                below = os.open(name, _READ | os.O_DIRECTORY, dir_fd=fd)
            finally:
                os.close(fd)
            fd = below
        self.close()
        self._open = (path, fd)
        return fd


def _attributes(fd: int) -> dict[bytes, bytes]:
    """The extended attributes that a layer keeps, as records of a pax header."""
    return {
        _XATTR + os.fsencode(name): os.getxattr(fd, name)
        for name in os.listxattr(fd)
        if name.startswith(_KEPT) and not name.startswith("user.overlay.")
    }


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
