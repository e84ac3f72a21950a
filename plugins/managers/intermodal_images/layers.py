"""Where the bytes of a layer come from while it is applied: a blob of the store, or a download that is still going on."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, NamedTuple, Protocol

from intermodal_core.contracts.common import Descriptor
from intermodal_core.contracts.managers.store import Scope, Store

from intermodal_images.downloads import Download

__all__ = ["Coming", "Feed", "LayerSource", "Stored"]

_PIECE: Final = 1 << 20
_PATIENCE: Final = 0.2

#: How much is there beyond an offset, waiting for it so many seconds, and whether nothing more will come.
_Look = Callable[[int, float], tuple[int, bool]]


class Feed(NamedTuple):
    """A descriptor to read a layer from, to its end; after `stop` the end comes soon."""

    descriptor: int
    stop: Callable[[], None]


class LayerSource(Protocol):
    """The bytes of one layer, as its descriptor names them."""

    descriptor: Descriptor

    def read(self, fed: Callable[[int], None]) -> AbstractAsyncContextManager[Feed]:
        """The bytes as they come; `fed` is called on a thread with how many of them were passed on."""

    async def fault(self) -> None:
        """Raise what is wrong with the bytes, where that can be told by now."""

    async def verified(self) -> None:
        """When all bytes are there and right. Raises what went wrong with them."""


class Stored:
    """A blob of the content store."""

    def __init__(self, store: Store, scope: Scope, descriptor: Descriptor) -> None:
        self._store = store
        self._scope = scope
        self.descriptor = descriptor

    @asynccontextmanager
    async def read(self, fed: Callable[[int], None]) -> AsyncIterator[Feed]:
        """Its file, through a pipe."""
        file = await self._store.content.open(self._scope, self.descriptor.digest)
        size = os.fstat(file).st_size
        async with _feeding(file, lambda offset, seconds: (size, True), fed) as feed:
            yield feed

    async def fault(self) -> None:
        """The store holds right bytes only."""

    async def verified(self) -> None:
        """The store holds right bytes only."""


class Coming:
    """A download."""

    def __init__(self, download: Download) -> None:
        self._download = download
        self.descriptor = download.target

    @asynccontextmanager
    async def read(self, fed: Callable[[int], None]) -> AsyncIterator[Feed]:
        """What is there, and what comes."""
        file = await self._download.open()
        async with _feeding(file, self._download.wait_beyond, fed) as feed:
            yield feed

    async def fault(self) -> None:
        """See `Download.fault`."""
        await self._download.fault()

    async def verified(self) -> None:
        """See `Download.whole`."""
        await self._download.whole()


@asynccontextmanager
async def _feeding(file: int, look: _Look, fed: Callable[[int], None]) -> AsyncIterator[Feed]:
    """A pipe that a thread splices `file` into, which it closes."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    feeder = _Feeder(file, writer, look, fed)
    feeder.start()
    try:
        yield Feed(reader, feeder.stopped.set)
    finally:
        os.close(reader)
        feeder.stopped.set()


class _Feeder(threading.Thread):
    """Ends when all was passed on, when nobody reads, when nothing more comes, or when it is stopped."""

    def __init__(self, file: int, writer: int, look: _Look, fed: Callable[[int], None]) -> None:
        super().__init__(name="feed", daemon=True)
        self._file = file
        self._writer = writer
        self._look = look
        self._fed = fed
        self.stopped = threading.Event()

    def run(self) -> None:
        """Feed."""
        try:
            at, ended = 0, False
            while not (ended or self.stopped.is_set()):
                there, ended = self._look(at, _PATIENCE)
                while at < there and not self.stopped.is_set():
                    done = os.splice(self._file, self._writer, min(_PIECE, there - at), offset_src=at)
                    if not done:
                        return
                    at += done
                    self._fed(at)
        except BrokenPipeError:
            pass  # whoever read it says why
        finally:
            os.close(self._writer)
            os.close(self._file)
