"""From a layer's descriptor to the blocks of its tar archive, hashing both forms in the same pass.

A helper thread reads, decompresses and hashes (all of that happens outside of the interpreter's lock), some blocks ahead
of whoever consumes them. Gzip may have several members and zeros after the last (RFC 1952); zstd may have several frames
and skippable ones (RFC 8878), so that eStargz and zstd:chunked layers are read as what they are.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
import time
import zlib
from collections.abc import Iterator
from typing import Final, Protocol

import zstandard
from intermodal_core.contracts.differs import Applied, ApplyLimits, Residue
from intermodal_core.errors import IntermodalError, InvalidArgument, ResourceExhausted, from_os_error
from isal import igzip, isal_zlib

from intermodal_tar.media_types import compression_of
from intermodal_tar.zstd_frames import Frames

__all__ = ["LayerStream"]

_READ: Final = 1 << 20
_BLOCK: Final = 1 << 20
_AHEAD: Final = 4
#: Below this an archive of nothing but zeros is no bomb, whatever its ratio.
_RATIO_FROM: Final = 64 << 20


class _Reads(Protocol):
    def read(self, size: int = ..., /) -> bytes: ...


class _Source:
    """The descriptor as a file object, hashed as it is read: in large pieces, since each takes the interpreter's lock."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._piece = b""
        self._at = 0
        self._hash = hashlib.sha256()
        self._taken = 0
        self.frames: Frames | None = None

    @property
    def size(self) -> int:
        """How many bytes were read so far."""
        return self._taken - (len(self._piece) - self._at)

    def peek(self, size: int) -> bytes:
        while len(self._piece) < size and (more := os.read(self._fd, _READ)):
            self._piece += self._take(more)
        return self._piece[:size]

    def read(self, size: int = -1) -> bytes:
        if self._at == len(self._piece):
            self._piece, self._at = self._take(os.read(self._fd, _READ)), 0
        at, end = self._at, len(self._piece)
        if 0 <= size < end - at:
            end = at + size
        self._at = end
        data = self._piece if end - at == len(self._piece) else self._piece[at:end]
        if self.frames is not None:
            self.frames.feed(data)
        return data

    def readinto(self, buffer: bytearray | memoryview) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def digest(self) -> str:
        return "sha256:" + self._hash.hexdigest()

    def _take(self, data: bytes) -> bytes:
        self._hash.update(data)
        self._taken += len(data)
        return data


class LayerStream:
    """Iterate once for the uncompressed blocks; then `applied()` tells the digests and sizes.

    Raises InvalidArgument for what is truncated, damaged or not what its media type says, ResourceExhausted for more
    than `limits.bytes` or a higher ratio than `limits.ratio`, and what from_os_error makes of a failed read.
    """

    def __init__(self, fd: int, media_type: str, limits: ApplyLimits) -> None:
        self._source = _Source(fd)
        self._media_type = media_type
        self._limits = limits
        self._hash = hashlib.sha256()
        self._blocks: queue.Queue[bytes | Exception] = queue.Queue(_AHEAD)
        self._closed = False
        self._seconds = 0.0
        #: Whether the stream itself was at fault.
        self.failed = False
        self.size = 0

    def __iter__(self) -> Iterator[bytes]:
        """The blocks, at most 1 MiB each. A consumer that leaves early ends the helper thread."""
        thread = threading.Thread(target=self._produce, name="decompress", daemon=True)
        thread.start()
        try:
            while True:
                block = self._blocks.get()
                if isinstance(block, Exception):
                    self.failed = True
                    raise block
                if not block:
                    return
                yield block
        finally:
            self._closed = True
            while thread.is_alive():
                try:
                    self._blocks.get_nowait()
                except queue.Empty:
                    thread.join(0.01)

    def applied(self, wrote: float = 0, residue: Residue | None = None) -> Applied:
        """The outcome, once all blocks were read; `wrote` is the processor time of who consumed them."""
        return Applied(
            diff_id="sha256:" + self._hash.hexdigest(),
            size=self.size,
            source_digest=self._source.digest(),
            source_size=self._source.size,
            seconds={"decompress": self._seconds, "write": wrote},
            residue=residue,
        )

    def _produce(self) -> None:
        try:
            reader = self._open()
            while not self._closed:
                block = reader.read(_BLOCK)
                if block:
                    self._hash.update(block)
                    self.size += len(block)
                    self._check_limits()
                else:
                    self._at_end()
                    self._seconds = time.thread_time()
                self._blocks.put(block)
                if not block:
                    return
        except Exception as error:
            self._blocks.put(self._translated(error))

    def _open(self) -> _Reads:
        compression = compression_of(self._media_type, self._source.peek(4))
        if compression == "gzip":
            return igzip.IGzipFile(fileobj=self._source, mode="rb")  # type: ignore[no-untyped-call]
        if compression == "zstd":
            self._source.frames = Frames()
            return zstandard.ZstdDecompressor().stream_reader(
                self._source,  # type: ignore[arg-type]
                read_size=_READ,
                read_across_frames=True,
                closefd=False,
            )
        return self._source

    def _at_end(self) -> None:
        while self._source.read(_READ):  # zeros that a decompressor left
            pass
        if self._source.frames is not None and not self._source.frames.complete:
            raise EOFError

    def _check_limits(self) -> None:
        limits = self._limits
        if self.size > limits.bytes:
            raise ResourceExhausted(
                f"The layer unpacks to more than {limits.bytes} bytes, the limit of this differ; raise it if that is right"
            )
        if self.size > _RATIO_FROM and self.size > limits.ratio * self._source.size:
            raise ResourceExhausted(
                f"The layer unpacks to {self.size} bytes from {self._source.size}, more than {limits.ratio} times its size"
                ", the limit of this differ; raise it if that is right"
            )

    def _translated(self, error: Exception) -> Exception:
        if isinstance(error, IntermodalError):
            return error
        where = f"at offset {self.size} of its contents, {self._source.size} of the compressed layer"
        if isinstance(error, EOFError):
            return InvalidArgument(f"The compressed layer is truncated: it ends {where}")
        if isinstance(error, igzip.BadGzipFile | zlib.error | isal_zlib.error | zstandard.ZstdError | ValueError):
            return InvalidArgument(f"The compressed layer is damaged {where}: {error}")
        if isinstance(error, OSError):
            return from_os_error(error, "read the layer")
        if isinstance(error, MemoryError):
            return ResourceExhausted(f"The layer needs more memory than its worker may use, {where}")
        return error
