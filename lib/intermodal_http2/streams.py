"""The streams of a connection: which are open, and what is known of those that are not (RFC 9113, section 5.1)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from intermodal_http2.frames import PROTOCOL_ERROR, STREAM_CLOSED, ConnectionFault
from intermodal_http2.stream import Stream

__all__ = ["Streams"]

#: Of streams that were ended here before the peer knew, so many are remembered: what still arrives for them is no fault.
_REMEMBERED: Final = 1000


class Streams(dict[int, Stream]):
    """The open ones by number. `last` is the highest that the peer has opened."""

    def __init__(self) -> None:
        super().__init__()
        self.last = 0
        self._crossing: OrderedDict[int, None] = OrderedDict()

    def close(self, stream: Stream, *, expecting: bool) -> None:
        """It is over; `expecting`: the peer may not know yet."""
        stream.gone = True
        del self[stream.id]
        if expecting:
            self.refuse(stream.id)

    def refuse(self, id: int) -> None:
        """It was ended before it was opened, or before the peer could know."""
        self._crossing[id] = None
        if len(self._crossing) > _REMEMBERED:
            self._crossing.popitem(last=False)

    def find(self, id: int) -> Stream | None:
        """The stream of a frame that only an open one may have; None for one that the peer may still think open.

        Raises ConnectionFault for one that was never opened, or whose end both sides know.
        """
        stream = self.get(id)
        if stream is None and id not in self._crossing:
            self.opened(id)
            raise ConnectionFault(STREAM_CLOSED, f"stream {id} is over")
        return stream

    def opened(self, id: int) -> Stream | None:
        """The stream of a frame that may come late. Raises ConnectionFault for one that was never opened."""
        if not id or id > self.last:
            raise ConnectionFault(PROTOCOL_ERROR, f"stream {id} was never opened")
        return self.get(id)
