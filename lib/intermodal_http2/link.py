"""The writing half of a connection: a transport whose writes can be gathered, and that a peer cannot fill without end."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from intermodal_http2 import frames, settings

__all__ = ["Link"]

_log = logging.getLogger(__name__)

#: A peer that takes nothing is sent no DATA beyond this, and is cut off when the rest reaches the second.
_WRITE_HIGH: Final = 1 << 20
_WRITE_MOST: Final = 8 << 20
#: Seconds in which a peer takes the last words of a connection.
_LAST_WORDS: Final = 2.0


class Link(asyncio.Protocol):
    """An asyncio protocol that writes. `over`: nothing more is read, and the end is near."""

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self.over = False
        self._paused = False  # the transport's buffer is full
        self._gathered: list[bytes] | None = None
        self._gathered_size = 0

    @property
    def full(self) -> bool:
        """So much waits to be written that DATA has to wait, until `release` or `resume_writing`."""
        return self._paused or self._gathered_size >= _WRITE_HIGH

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say what we allow."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=_WRITE_HIGH)
        grown = frames.window_update(0, settings.CONNECTION_WINDOW - settings.DEFAULT_WINDOW)
        transport.write(settings.OUR_SETTINGS + grown)

    def pause_writing(self) -> None:
        """The peer does not read."""
        self._paused = True

    def resume_writing(self) -> None:
        """It does again."""
        self._paused = False

    def write(self, data: bytes) -> None:
        """Write whole frames."""
        if self._gathered is not None:
            self._gathered.append(data)
            self._gathered_size += len(data)
            return
        self._transport.write(data)
        if self._paused and self._transport.get_write_buffer_size() > _WRITE_MOST:
            _log.warning("a client that takes no answers is cut off")
            self._transport.abort()

    def gather(self) -> None:
        """From here on writes become one, until `release`."""
        if self._gathered is None:
            self._gathered = []

    def gather_turn(self) -> None:
        """Writes become one, until the loop's next turn."""
        if self._gathered is None:
            self._gathered = []
            asyncio.get_running_loop().call_soon(self.release)

    def release(self) -> None:
        """Write what was gathered."""
        gathered, self._gathered = self._gathered, None
        self._gathered_size = 0
        if gathered:
            self.write(gathered[0] if len(gathered) == 1 else b"".join(gathered))

    def close(self) -> None:
        """End the connection once what was written is out, or the peer does not take it."""
        if not self.over:
            self.over = True
            self.release()
            self._transport.close()
            asyncio.get_running_loop().call_later(_LAST_WORDS, self._transport.abort)
