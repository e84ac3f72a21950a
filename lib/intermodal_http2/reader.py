"""The reading half of a connection: the preface, and frames cut out of what arrives."""

from __future__ import annotations

import logging
from abc import abstractmethod

from intermodal_http2 import frames, settings
from intermodal_http2.frames import ConnectionFault
from intermodal_http2.link import Link

__all__ = ["Reader"]

_log = logging.getLogger(__name__)


class Reader(Link):
    """Calls `frame` for each frame, and `fail` for what cannot be gone on from."""

    def __init__(self) -> None:
        super().__init__()
        self._rest = b""
        self._begun = False  # the preface is there
        self._greeted = False  # and SETTINGS after it

    @abstractmethod
    def frame(self, kind: int, flags: int, id: int, payload: bytes) -> None:
        """Act on a frame. Raises ConnectionFault."""

    @abstractmethod
    def fail(self, fault: ConnectionFault) -> None:
        """Give the connection up."""

    def data_received(self, data: bytes) -> None:
        """Take in what the peer sent; what is answered at once leaves in one write."""
        if self.over:
            return
        if self._rest:
            data = self._rest + data
        self.gather()
        try:
            self._rest = data[self._feed(data) :]
        except ConnectionFault as fault:
            self.fail(fault)
        except Exception as error:
            _log.exception("a defect ends a connection")
            self.fail(ConnectionFault(frames.INTERNAL_ERROR, type(error).__name__))
        finally:
            self.release()

    def _feed(self, data: bytes) -> int:
        """Handle the whole frames of `data`; where the rest begins."""
        at = 0
        if not self._begun:
            preface = frames.PREFACE
            if data[: len(preface)] != preface[: len(data)]:
                raise ConnectionFault(frames.PROTOCOL_ERROR, "this is not HTTP/2")
            if len(data) < len(preface):
                return 0
            self._begun = True
            at = len(preface)
        while len(data) - at >= 9:
            length = int.from_bytes(data[at : at + 3])
            if length > settings.OUR_FRAME:
                raise ConnectionFault(
                    frames.FRAME_SIZE_ERROR, f"a frame of {length} bytes is over {settings.OUR_FRAME}"
                )
            end = at + 9 + length
            if end > len(data):
                break
            kind, flags = data[at + 3], data[at + 4]
            if not self._greeted:
                if kind != frames.SETTINGS or flags & frames.ACK:
                    raise ConnectionFault(frames.PROTOCOL_ERROR, "the first frame must be SETTINGS")
                self._greeted = True
            self.frame(kind, flags, int.from_bytes(data[at + 5 : at + 9]) & 0x7FFFFFFF, data[at + 9 : end])
            if self.over:
                break
            at = end
        return at
