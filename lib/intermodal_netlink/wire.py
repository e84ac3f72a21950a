"""Netlink's framing: messages, attributes, acknowledgements (netlink(7), include/uapi/linux/netlink.h).

Each request that changes something raises the audit event `intermodal.step` before it is sent, and only before: a crash
test ends the process at the k-th one.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from typing import Self

__all__ = [
    "ACK",
    "CREATE",
    "DUMP",
    "EXCL",
    "REPLACE",
    "REQUEST",
    "Netlink",
    "attribute",
    "attributes",
    "nested",
    "text",
]

REQUEST, ACK, DUMP = 0x01, 0x04, 0x300
REPLACE, EXCL, CREATE = 0x100, 0x200, 0x400

_ERROR, _DONE = 2, 3
_MULTI = 2
_SOL_NETLINK, _EXT_ACK, _CAP_ACK = 270, 11, 10
_NESTED, _TYPE_MASK = 0x8000, 0x3FFF
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_SECONDS = 10  # the kernel answers within one call; a lost answer must not hold a thread for ever


def attribute(type: int, data: bytes) -> bytes:
    """One attribute, padded."""
    return _ATTRIBUTE.pack(len(data) + 4, type) + data + bytes(-len(data) % 4)


def nested(type: int, *inner: bytes) -> bytes:
    """An attribute of attributes."""
    return attribute(type | _NESTED, b"".join(inner))


def text(type: int, value: str) -> bytes:
    """A string attribute, ended by NUL."""
    return attribute(type, value.encode() + b"\0")


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and value of each attribute in `data`."""
    at = 0
    while at + 4 <= len(data):
        length, type = _ATTRIBUTE.unpack_from(data, at)
        if length < 4:
            return
        yield type & _TYPE_MASK, data[at + 4 : at + length]
        at += (length + 3) & ~3


class Netlink:
    """A netlink socket of one protocol; `sock` may have been opened in another network namespace, and is closed with it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sequence = 0
        sock.settimeout(_SECONDS)
        for option in (_EXT_ACK, _CAP_ACK):
            sock.setsockopt(_SOL_NETLINK, option, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def change(self, step: str, *messages: tuple[int, int, bytes], tolerate: int = 0) -> None:
        """Send messages (type, flags, body) at once; each is done whether or not one before it failed.

        Raises OSError for the first that failed, with what the kernel said; but for the errno `tolerate`.
        """
        if not messages:
            return
        sys.audit("intermodal.step", step)
        first = self._sequence + 1
        packed = [self._pack(type, flags | REQUEST | ACK, body) for type, flags, body in messages]
        self._sock.sendall(b"".join(packed))
        waiting = set(range(first, first + len(messages)))
        failure: OSError | None = None
        while waiting:
            for type, sequence, body in self._receive():
                if type == _ERROR and sequence in waiting:
                    waiting.discard(sequence)
                    failed = _failure(body)
                    if failed is not None and failed.errno != tolerate:
                        failure = failure or failed
        if failure is not None:
            raise failure

    def batch(self, step: str, begin: bytes, end: bytes, messages: Iterable[tuple[int, int, bytes]]) -> None:
        """A transaction of nfnetlink: all messages, or none. Raises OSError for the first that was refused.

        `begin` and `end` are bodies of the batch's first and last message.
        """
        sys.audit("intermodal.step", step)
        packed = [self._pack(0x10, REQUEST, begin)]
        first = self._sequence
        packed += [self._pack(type, flags | REQUEST, body) for type, flags, body in messages]
        packed.append(self._pack(0x11, REQUEST, end))
        # One acknowledgement is enough: it is that of the last change, and refusals come before it.
        last = len(packed) - 2
        length, type, flags, sequence, port = _HEADER.unpack_from(packed[last])
        packed[last] = _HEADER.pack(length, type, flags | ACK, sequence, port) + packed[last][_HEADER.size :]
        self._sock.sendall(b"".join(packed))
        failure: OSError | None = None
        while True:
            for type, heard, body in self._receive():
                if type != _ERROR:
                    continue
                failure = failure or _failure(body)
                if heard in (first, sequence):
                    if failure is not None:
                        raise failure
                    return

    def dump(self, type: int, body: bytes, flags: int = DUMP) -> list[tuple[int, bytes]]:
        """Type and body of each message of the answer. Raises OSError."""
        self._sock.sendall(self._pack(type, flags | REQUEST, body))
        expected = self._sequence
        found: list[tuple[int, bytes]] = []
        while True:
            for type, sequence, data in self._receive():
                if sequence != expected:
                    continue
                if type == _ERROR:
                    if (failure := _failure(data)) is not None:
                        raise failure
                    return found
                if type == _DONE:
                    return found
                found.append((type, data))
                if flags & DUMP != DUMP:
                    return found

    def _pack(self, type: int, flags: int, body: bytes) -> bytes:
        self._sequence += 1
        return _HEADER.pack(len(body) + 16, type, flags, self._sequence, 0) + body + bytes(-len(body) % 4)

    def _receive(self) -> Iterator[tuple[int, int, bytes]]:
        try:
            data = self._sock.recv(1 << 17)
        except TimeoutError:
            raise OSError(errno.ETIMEDOUT, "the kernel does not answer on netlink") from None
        at = 0
        while at + 16 <= len(data):
            length, type, _, sequence, _ = _HEADER.unpack_from(data, at)
            yield type, sequence, data[at + 16 : at + length]
            at += (length + 3) & ~3


def _failure(body: bytes) -> OSError | None:
    code = -int.from_bytes(body[:4], sys.byteorder, signed=True)
    if not code:
        return None
    said = (
        next((value for type, value in attributes(body[20:]) if type == 1), b"").rstrip(b"\0").decode(errors="replace")
    )
    return OSError(code, f"{os.strerror(code)}: {said}" if said else os.strerror(code))
