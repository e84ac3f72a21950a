"""Blobs on their way from an image source: files that grow, read while they do, one for a digest however many ask."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import secrets
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

from intermodal_core.contracts.common import Descriptor
from intermodal_core.contracts.image_sources import Access, Body
from intermodal_core.contracts.managers.store import Store
from intermodal_core.errors import FailedPrecondition, IntermodalError, Unavailable, from_os_error

from intermodal_images.threads import on_thread

__all__ = ["Download", "Downloads"]

_PIECE: Final = 1 << 20

#: Called on the loop with bytes more that came.
Moved = Callable[[int], None]


class Download:
    """One blob; `there` bytes from its beginning are in the file. Threads may wait for more with `wait_beyond`."""

    def __init__(self, target: Descriptor) -> None:
        self.target = target
        self.path = ""
        self.there = 0
        self.users = 0
        self.watchers: set[Moved] = set()
        self._file = -1
        self._changed = threading.Condition()
        self._ended = False
        self._hash = hashlib.sha256()
        self._hashed = 0
        #: Parts that came before what precedes them: beginning -> end.
        self._parts: dict[int, int] = {}
        self.task: asyncio.Task[None] | None = None
        self.opened = asyncio.Event()

    async def whole(self) -> None:
        """When all of it is there and its digest right. Raises what went wrong; cancelling leaves it to others."""
        assert self.task is not None
        await asyncio.wait([self.task])
        if self.task.cancelled():
            raise Unavailable(f"the download of {self.target.digest} was given up")
        self.task.result()

    async def open(self) -> int:
        """A descriptor of the file, which grows; the caller closes it. Raises what keeps it from being there."""
        assert self.task is not None
        opened = asyncio.ensure_future(self.opened.wait())
        try:
            await asyncio.wait([opened, self.task], return_when=asyncio.FIRST_COMPLETED)
        finally:
            opened.cancel()
        if self._file < 0:
            await self.whole()
        return os.dup(self._file)

    async def fault(self) -> None:
        """Raise what is wrong with the bytes, where all that will come has come; else return at once."""
        if self._ended or self.there == self.target.size:
            await self.whole()

    def wait_beyond(self, offset: int, seconds: float) -> tuple[int, bool]:
        """For a thread: how much is there once that is more than `offset`, or it has ended, or the time is over."""
        with self._changed:
            if self.there <= offset and not self._ended:
                self._changed.wait(seconds)
            return self.there, self._ended

    # What the download itself does.

    def begin(self, directory: str) -> None:
        """Make the file. Raises OSError."""
        path = os.path.join(directory, f"pull-{secrets.token_hex(8)}")
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self.path = path
        self.opened.set()

    def write(self, offset: int, piece: bytes) -> None:
        """On a thread: put a piece in its place. Raises OSError."""
        view = memoryview(piece)
        at = offset
        while view:
            done = os.pwrite(self._file, view, at)
            view, at = view[done:], at + done
        with self._changed:
            if offset == self._hashed:
                self._hash.update(piece)
                self._hashed += len(piece)
            self._parts[offset] = at
            there = self.there
            while (end := self._parts.pop(there, -1)) >= 0:
                there = end
            self.there = there
            self._changed.notify_all()

    def check(self) -> None:
        """On a thread: whether it is what was asked for. Raises FailedPrecondition."""
        size, digest = self.target.size, self.target.digest
        if self.there != size:
            raise FailedPrecondition(f"the blob {digest} has {self.there} bytes, and what names it says {size}")
        algorithm, _, wanted = digest.partition(":")
        hashing: Any = self._hash
        at = self._hashed
        if algorithm != "sha256":
            hashing, at = hashlib.new(algorithm), 0
        while at < size and (data := os.pread(self._file, _PIECE, at)):
            hashing.update(data)
            at += len(data)
        if hashing.hexdigest() != wanted:
            raise FailedPrecondition(
                f"what was sent as {digest} has the digest {algorithm}:{hashing.hexdigest()}: the registry, or what is "
                "between, is at fault"
            )

    def end(self) -> None:
        """Nothing more will come."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def close(self) -> None:
        """Drop the file, wherever nobody adopted it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        if self.path:
            try:
                os.unlink(self.path)
            except FileNotFoundError:
                pass


class Downloads:
    """The downloads under way. `at_once` run at the same time; a blob of `ranged` bytes and more comes in `ranges` parts."""

    def __init__(self, store: Store, at_once: int, ranges: int, ranged: int) -> None:
        self._store = store
        self._slots = asyncio.Semaphore(at_once)
        self._ranges = ranges
        self._ranged = ranged
        self._running: dict[tuple[str, Access, str], Download] = {}

    @asynccontextmanager
    async def get(
        self, source: Any, name: str, repository: str, target: Descriptor, access: Access, moved: Moved
    ) -> AsyncIterator[Download]:
        """Take part in a download, or begin it. When the last one has left, it ends and the file goes.

        Only who asks the same repository in the same way takes part: to know a digest is not to be allowed its bytes.
        """
        key = (repository, access, target.digest)
        download = self._running.get(key)
        if download is None:
            download = self._running[key] = Download(target)
            download.task = asyncio.create_task(self._run(download, source, name, access))
        download.users += 1
        download.watchers.add(moved)
        assert download.task is not None
        try:
            yield download
        finally:
            download.users -= 1
            download.watchers.discard(moved)
            if not download.users:
                if self._running.get(key) is download:
                    del self._running[key]
                download.task.cancel()
                await asyncio.shield(self._close(download))

    async def _close(self, download: Download) -> None:
        assert download.task is not None
        await asyncio.wait([download.task])
        if not download.task.cancelled():
            download.task.exception()
        download.close()

    async def _run(self, download: Download, source: Any, name: str, access: Access) -> None:
        try:
            async with self._slots:
                download.begin(await self._store.content.incoming(download.target.size))
                await self._fetch(download, source, name, access)
                await on_thread(download.check)
        except OSError as error:
            raise from_os_error(error, f"writing the blob {download.target.digest}") from error
        finally:
            download.end()

    async def _fetch(self, download: Download, source: Any, name: str, access: Access) -> None:
        target = download.target
        first: Body = await source.fetch(name, target, access=access)
        count = min(self._ranges, target.size // max(1, self._ranged // 2)) if target.size >= self._ranged else 1
        if count < 2 or not first.ranges:
            await self._take(download, first, 0, target.size)
            return
        bounds = [target.size * number // count for number in range(count + 1)]

        async def part(begin: int, end: int) -> None:
            body = await source.fetch(name, target, begin, end - begin, access=access)
            await self._take(download, body, begin, end)

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._take(download, first, 0, bounds[1]))
                for begin, end in itertools.pairwise(bounds[1:]):
                    group.create_task(part(begin, end))
        except BaseExceptionGroup as failed:
            raise next((each for each in failed.exceptions if isinstance(each, IntermodalError)), failed) from None

    async def _take(self, download: Download, body: Body, begin: int, end: int) -> None:
        """Write what comes, in large pieces, up to `end`."""
        at = begin
        gathered: list[bytes] = []
        size = 0
        try:
            async for piece in body:
                piece = piece[: end - at - size]
                gathered.append(piece)
                size += len(piece)
                for moved in download.watchers:
                    moved(len(piece))
                if size >= _PIECE or at + size == end:
                    await on_thread(partial(download.write, at, b"".join(gathered)))
                    at, size = at + size, 0
                    gathered.clear()
                    if at == end:
                        break
            if gathered:
                await on_thread(partial(download.write, at, b"".join(gathered)))
        finally:
            await body.aclose()
