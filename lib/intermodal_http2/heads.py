"""The head of a request: its header fields, checked by HTTP/2's rules (RFC 9113, section 8)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from intermodal_http2.frames import PROTOCOL_ERROR, StreamFault
from intermodal_http2.hpack import Field

__all__ = ["Head", "check_trailers"]

_PSEUDO = (b":method", b":scheme", b":path", b":authority")
#: Of a connection, not of a message; HTTP/2 has none of them.
_OF_CONNECTIONS = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"))
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE = re.compile(rb"[^\0\r\n]*")


class Head:
    """A request's head. `fields` has each ordinary name's values, in order. Not to be changed: it may serve many requests."""

    __slots__ = ("fields", "length", "method", "path")

    def __init__(self, fields: Iterable[Field]) -> None:
        """Raises StreamFault (PROTOCOL_ERROR)."""
        pseudo: dict[bytes, bytes] = {}
        ordinary: dict[bytes, list[bytes]] = {}
        for name, value in fields:
            if name[:1] == b":":
                if ordinary or name in pseudo or name not in _PSEUDO:
                    raise _fault(f"the pseudo-header {name!r} is unknown, there twice, or late")
                pseudo[name] = value
            else:
                _check(name, value)
                ordinary.setdefault(name, []).append(value)
        self.method = pseudo.get(b":method", b"")
        self.path = pseudo.get(b":path", b"")
        if not self.method or not pseudo.get(b":scheme") or not self.path:
            raise _fault("a request needs :method, :scheme and :path")
        self.fields = ordinary
        lengths = ordinary.get(b"content-length")
        if lengths and (len(set(lengths)) > 1 or not lengths[0].isdigit() or len(lengths[0]) > 18):
            raise _fault(f"the content-length {lengths!r} is no number")
        #: What the payloads of its DATA frames must add up to; None when that was not said.
        self.length = int(lengths[0]) if lengths else None

    def first(self, name: bytes) -> bytes:
        """The first value of an ordinary field, or b""."""
        values = self.fields.get(name)
        return values[0] if values else b""


def check_trailers(fields: Iterable[Field]) -> None:
    """Trailing fields have no pseudo-headers. Raises StreamFault (PROTOCOL_ERROR)."""
    for name, value in fields:
        _check(name, value)


def _check(name: bytes, value: bytes) -> None:
    if not _NAME.fullmatch(name) or name in _OF_CONNECTIONS:
        raise _fault(f"a header must not be called {name!r}")
    if not _VALUE.fullmatch(value) or (name == b"te" and value != b"trailers"):
        raise _fault(f"the header {name!r} must not have the value {value[:40]!r}")


def _fault(message: str) -> StreamFault:
    return StreamFault(PROTOCOL_ERROR, message)
