"""One stream of bytes out of servers that break off: resumed where it broke, given up where it stalls or trickles."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Sequence
from typing import Final

import aiohttp
from intermodal_core.errors import DeadlineExceeded, FailedPrecondition, IntermodalError, NotFound, Unavailable

from intermodal_registry.client import Client
from intermodal_registry.settings import Settings

__all__ = ["Download", "all_attempts"]

_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(?:\d+|\*)")
#: After so many bytes a server that breaks off has all its attempts again.
_PROGRESS: Final = 1 << 20


class Download:
    """Implements `intermodal_core.contracts.image_sources.Body`; `begin` it first.

    `path` below the root of each of `clients`, which are asked in order; bytes `offset` and on, `length` of them (-1: to the
    end). `size` is that of the whole, 0 where it is not known.
    """

    def __init__(
        self,
        clients: Sequence[Client],
        path: str,
        scope: str,
        settings: Settings,
        *,
        size: int = 0,
        offset: int = 0,
        length: int = -1,
        accept: str = "*/*",
    ) -> None:
        self._clients = list(clients)
        self._path = path
        self._scope = scope
        self._settings = settings
        self._size = size
        self._at = offset
        self._end = offset + length if length >= 0 else (size or -1)
        self._accept = accept
        self._response: aiohttp.ClientResponse | None = None
        self._skip = 0
        self._failures: list[IntermodalError] = []
        self._slow_since: list[tuple[float, int]] = []
        self.host = ""
        self.ranges = False

    async def begin(self) -> Download:
        """Ask until somebody answers. Raises with all attempts when nobody does."""
        while self._clients:
            client = self._clients[0]
            try:
                await self._ask(client)
                return self
            except IntermodalError as error:
                self._failures.append(error)
                self._clients.pop(0)
        raise all_attempts(self._failures)

    async def _ask(self, client: Client) -> None:
        headers = {"Accept": self._accept}
        ranged = self._at > 0 or (0 <= self._end < self._size)
        if ranged:
            headers["Range"] = f"bytes={self._at}-{self._end - 1 if self._end >= 0 else ''}"
        response = await client.request("GET", self._path, self._scope, headers=headers)
        try:
            self._skip = self._check(response, ranged)
        except BaseException:
            response.close()
            raise
        self._response = response
        self.host = client.server.url
        self.ranges = response.status == 206 or response.headers.get("Accept-Ranges", "") == "bytes"

    def _check(self, response: aiohttp.ClientResponse, ranged: bool) -> int:
        """How many bytes of the answer come before what is wanted. Raises FailedPrecondition for another answer."""
        asked = f"GET {response.url}"
        if response.status == 206:
            found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if not ranged or found is None or int(found[1]) != self._at:
                told = response.headers.get("Content-Range", "no range")
                raise FailedPrecondition(f"{asked}: the bytes from {self._at} were asked for, and it answers {told}")
            return 0
        if response.status != 200:
            raise FailedPrecondition(f"{asked}: {response.status} is no answer to a download")
        length = response.headers.get("Content-Length", "")
        if self._size and length.isdecimal() and int(length) != self._size:
            raise FailedPrecondition(
                f"{asked}: it has {length} bytes there, and the descriptor that names it says {self._size}"
            )
        return self._at

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The pieces."""
        return self._pieces()

    async def _pieces(self) -> AsyncIterator[bytes]:
        settings = self._settings
        tries, counted = 0, self._at
        try:
            while True:
                try:
                    async for piece in self._read():
                        yield piece
                    if self._end < 0 or self._at == self._end:
                        return
                    failure: IntermodalError = Unavailable(
                        f"GET {self.host}{self._path}: it ended after {self._at} of {self._end} bytes"
                    )
                except (aiohttp.ClientError, TimeoutError, OSError) as error:
                    failure = self._broken(error)
                except DeadlineExceeded as error:
                    failure = error
                    tries = settings.attempts
                self._drop()
                if self._at - counted >= _PROGRESS:
                    tries = 0
                counted = self._at
                tries += 1
                if tries >= settings.attempts:
                    self._failures.append(failure)
                    self._clients.pop(0)
                    tries = 0
                else:
                    await asyncio.sleep(random.uniform(0.5, 1) * settings.pause * 2 ** (tries - 1))
                if not self._clients:
                    raise all_attempts(self._failures)
                await self.begin()
        finally:
            self._drop()

    async def _read(self) -> AsyncIterator[bytes]:
        assert self._response is not None
        content = self._response.content
        waited = 0.0
        self._slow_since = [(0.0, 0)]
        got = 0
        while self._end < 0 or self._at < self._end:
            began = time.monotonic()
            piece = await content.readany()
            waited += time.monotonic() - began
            if not piece:
                return
            got += len(piece)
            self._check_rate(waited, got)
            if self._skip:
                skipped = min(self._skip, len(piece))
                self._skip -= skipped
                piece = piece[skipped:]
            if self._end >= 0 and len(piece) > self._end - self._at:
                if self._end == self._size:
                    raise FailedPrecondition(
                        f"GET {self.host}{self._path}: it sends more than the {self._size} bytes that the descriptor says"
                    )
                piece = piece[: self._end - self._at]
            if piece:
                self._at += len(piece)
                yield piece

    def _check_rate(self, waited: float, got: int) -> None:
        """Of the time spent waiting for the host, the last `window` seconds must have brought enough."""
        marks, settings = self._slow_since, self._settings
        since, had = marks[0]
        if waited - since < settings.window:
            if waited - marks[-1][0] >= settings.window / 8:
                marks.append((waited, got))
            return
        rate = (got - had) / (waited - since)
        if rate < settings.minimum_rate:
            raise DeadlineExceeded(
                f"GET {self.host}{self._path}: download at {rate:.0f} bytes a second for {waited - since:.0f} s "
                f"(at least {settings.minimum_rate} are asked for)"
            )
        marks.append((waited, got))
        marks.pop(0)

    def _broken(self, error: BaseException) -> IntermodalError:
        where = f"GET {self.host}{self._path}: download"
        if isinstance(error, TimeoutError):
            return DeadlineExceeded(f"{where} stalled: no byte for {self._settings.stall:g} s, after {self._at} bytes")
        return Unavailable(f"{where} broke off after {self._at} bytes: {type(error).__name__}: {error}")

    def _drop(self) -> None:
        response, self._response = self._response, None
        if response is not None:
            if response.content.at_eof():
                response.release()
            else:
                response.close()

    async def aclose(self) -> None:
        """Let go of it."""
        self._drop()


def all_attempts(failures: Sequence[IntermodalError]) -> IntermodalError:
    """One error for all that was tried: of the kind that tells most, with what each said."""
    if not failures:
        return NotFound("no host is configured that can do this")
    if len(failures) == 1:
        return failures[0]
    telling = next((error for error in failures if not isinstance(error, NotFound | Unavailable)), failures[-1])
    return type(telling)("; then ".join(error.message for error in failures))
