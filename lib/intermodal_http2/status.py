"""gRPC's status as trailing fields (gRPC over HTTP/2, "Responses")."""

from __future__ import annotations

import re
from typing import Final

from intermodal_http2.hpack import STATUS_200, literal

__all__ = ["HEADERS", "NOT_GRPC", "OK", "trailers"]

#: The fields before an answer's first message.
HEADERS: Final = STATUS_200 + literal(b"content-type", b"application/grpc")
OK: Final = literal(b"grpc-status", b"0")
#: What speaks HTTP/2 and not gRPC is told so in HTTP's words.
NOT_GRPC: Final = literal(b":status", b"415") + literal(b"content-type", b"text/plain")

#: Clients refuse fields of more than 8 KiB together.
_LONGEST: Final = 6000
_ESCAPED = re.compile(rb"[^ -$&-~]")


def trailers(code: int, message: str) -> bytes:
    """The fields that end an answer with an error; a message that is too long for clients is cut."""
    written = _escape(message.encode(errors="replace"))
    if len(written) > _LONGEST:
        # An escaped byte takes three; what is cut within a character is left out.
        kept = message.encode(errors="replace")[: _LONGEST // (3 if b"%" in written else 1) - 3]
        written = _escape(kept.decode(errors="ignore").encode() + b"...")
    return literal(b"grpc-status", b"%d" % code) + literal(b"grpc-message", written)


def _escape(message: bytes) -> bytes:
    return _ESCAPED.sub(lambda found: b"%%%02X" % found[0][0], message)
