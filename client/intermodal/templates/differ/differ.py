"""A differ for one more compression: it decompresses, and the differ for tar unpacks, sealed off as ever."""

from __future__ import annotations

import hashlib
import lzma
import os
import threading
from collections.abc import Callable
from contextlib import suppress

import msgspec
from intermodal_core.contracts.common import Descriptor, Mount
from intermodal_core.contracts.differs import Alone, Applied, ApplyLimits, Compared, Differ
from intermodal_core.errors import InvalidArgument, from_os_error

__all__ = ["MEDIA_TYPE", "SampleDiffer"]

MEDIA_TYPE = "application/vnd.oci.image.layer.v1.tar+xz"
_PLAIN = "application/vnd.oci.image.layer.v1.tar"
_MEMORY = 128 << 20  # what a layer may make the decompressor take


class SampleDiffer:
    """Implements `intermodal_core.contracts.differs.Differ`; `inner` takes what `MEDIA_TYPE` is not."""

    def __init__(self, inner: Differ) -> None:
        self._inner = inner

    def media_types(self) -> tuple[str, ...]:
        """[D3]."""
        return (*self._inner.media_types(), MEDIA_TYPE)

    def apply(
        self,
        layer: int,
        descriptor: Descriptor,
        mounts: tuple[Mount, ...],
        limits: ApplyLimits | None = None,
        alone: bool = False,
    ) -> Applied:
        """[D4]."""
        if descriptor.media_type != MEDIA_TYPE:
            return self._inner.apply(layer, descriptor, mounts, limits, alone)
        reader, writer = os.pipe()
        decompressing = _Decompressing(layer, writer)
        try:
            plain = msgspec.structs.replace(descriptor, media_type=_PLAIN)
            applied = self._inner.apply(reader, plain, mounts, limits, alone)
        except InvalidArgument:
            decompressing.end(reader)
            decompressing.check()  # that is why the tar is malformed, if so
            raise
        finally:
            decompressing.end(reader)
        decompressing.check()
        return msgspec.structs.replace(
            applied, source_digest=f"sha256:{decompressing.hash.hexdigest()}", source_size=decompressing.size
        )

    def settle(self, layers: tuple[Alone, ...], below: tuple[Mount, ...]) -> int:
        """[D5] No matter of compression."""
        return self._inner.settle(layers, below)

    def compare(
        self,
        lower: tuple[Mount, ...],
        upper: tuple[Mount, ...],
        into: int,
        media_type: str,
        latest: int | None = None,
    ) -> Compared:
        """[D6] Layers are written in the forms that the other differ has."""
        return self._inner.compare(lower, upper, into, media_type, latest)

    def close(self) -> None:
        """Cancel what is under way."""
        close: Callable[[], None] | None = getattr(self._inner, "close", None)
        if close is not None:
            close()


class _Decompressing(threading.Thread):
    """Reads the layer to its end, counts and hashes it, and writes what it holds to a pipe, which it closes."""

    def __init__(self, layer: int, writer: int) -> None:
        super().__init__(daemon=True)
        self.hash = hashlib.sha256()
        self.size = 0
        self._layer = layer
        self._writer = writer
        self._failure: Exception | None = None
        self._ended = False
        self.start()

    def run(self) -> None:
        try:
            with os.fdopen(self._writer, "wb") as writer, suppress(BrokenPipeError):
                self._decompress(writer.write)
        except Exception as error:
            self._failure = error

    def _decompress(self, write: Callable[[bytes], object]) -> None:
        decompressor = lzma.LZMADecompressor(memlimit=_MEMORY)
        while data := os.read(self._layer, 1 << 20):
            self.hash.update(data)
            self.size += len(data)
            write(decompressor.decompress(data))
        if not decompressor.eof:
            raise InvalidArgument("the layer is truncated: its xz stream does not end")

    def end(self, reader: int) -> None:
        """Wait for it; nobody reads any more, which ends one whose layer was refused."""
        if not self._ended:
            self._ended = True
            os.close(reader)
            self.join()

    def check(self) -> None:
        """Raise what went wrong, by its meaning."""
        if isinstance(self._failure, OSError):
            raise from_os_error(self._failure, "read the layer") from self._failure
        if isinstance(self._failure, lzma.LZMAError | EOFError):
            raise InvalidArgument(f"the layer is no xz: {self._failure}") from self._failure
        if self._failure is not None:
            raise self._failure
