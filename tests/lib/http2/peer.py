"""A client that sends any bytes and reads frames; its header blocks are made and read by the library `hpack`."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import NamedTuple

import hpack
from google.protobuf.wrappers_pb2 import BytesValue
from intermodal_http2 import frames

__all__ = ["Frame", "Peer", "message"]


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def code(self) -> int:
        """The error code of a RST_STREAM or GOAWAY."""
        assert self.kind in (frames.RST_STREAM, frames.GOAWAY), self
        return int.from_bytes(self.payload[:4] if self.kind == frames.RST_STREAM else self.payload[4:8])


def message(value: bytes = b"x") -> bytes:
    """A gRPC message that holds a BytesValue."""
    data = BytesValue(value=value).SerializeToString()
    return struct.pack(">?L", False, len(data)) + data


class Peer:
    """Over a connected socket, which it owns."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        self._data = b""
        self.seen: list[Frame] = []

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def hello(self, *settings: tuple[int, int]) -> None:
        payload = b"".join(struct.pack(">HL", *setting) for setting in settings)
        self.send(frames.PREFACE + frames.frame(frames.SETTINGS, 0, 0, payload))

    def send(self, *data: bytes) -> None:
        self.sock.sendall(b"".join(data))

    def frame(self, kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> None:
        self.send(frames.frame(kind, flags, stream, payload))

    def block(self, path: str = "/test.Echo/Say", **more: str) -> bytes:
        """A request's header block; `_` stands for `-` in the names of `more`."""
        fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "x"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            *((name.replace("_", "-"), value) for name, value in more.items()),
        ]
        return bytes(self.encoder.encode(fields))

    def request(self, stream: int, path: str = "/test.Echo/Say", data: bytes | None = None, **more: str) -> None:
        """HEADERS, and with `data` one DATA frame that ends the request."""
        self.frame(frames.HEADERS, frames.END_HEADERS, stream, self.block(path, **more))
        if data is not None:
            self.frame(frames.DATA, frames.END_STREAM, stream, data)

    def read(self) -> Frame | None:
        """The next frame; None at the end of the connection."""
        while len(self._data) < 9 or len(self._data) < 9 + int.from_bytes(self._data[:3]):
            try:
                more = self.sock.recv(1 << 20)
            except ConnectionResetError:
                return None
            if not more:
                return None
            self._data += more
        size = int.from_bytes(self._data[:3])
        kind, flags, stream = struct.unpack(">BBL", self._data[3:9])
        found = Frame(kind, flags, stream, self._data[9 : 9 + size])
        self._data = self._data[9 + size :]
        self.seen.append(found)
        return found

    def until(self, wanted: Callable[[Frame], bool]) -> Frame:
        """The next frame of that kind, whatever else comes before."""
        while (found := self.read()) is not None:
            if wanted(found):
                return found
        raise AssertionError(f"the connection ended; seen {self.seen[-5:]}")

    def next(self, kind: int, stream: int | None = None) -> Frame:
        """The next frame of a type, and of a stream."""
        return self.until(lambda frame: frame.kind == kind and stream in (None, frame.stream))

    def rest(self) -> list[Frame]:
        """All that comes until the end of the connection."""
        found = []
        while (frame := self.read()) is not None:
            found.append(frame)
        return found

    def ping(self) -> list[Frame]:
        """All that the server says to what was sent before.

        A PING is answered as soon as it is read, and what a method answers some turns of the server's loop later: so it
        takes several, one after the other.
        """
        at = len(self.seen)
        for number in range(5):
            sent = b"ping %d.." % number
            self.frame(frames.PING, payload=sent[:8])
            self.until(lambda frame, sent=sent: frame.kind == frames.PING and frame.payload == sent[:8])  # type: ignore[misc]
        return self.seen[at:]

    def answer(self, stream: int) -> tuple[bytes, dict[str, str]]:
        """The DATA of a stream's answer, and its trailers, in the order of the frames of all streams."""
        data = b""
        while True:
            frame = self.read()
            assert frame is not None, "the connection ended"
            if frame.kind == frames.HEADERS:
                fields = dict(self.decoder.decode(frame.payload))
            if frame.stream == stream:
                if frame.kind == frames.DATA:
                    data += frame.payload
                if frame.flags & frames.END_STREAM and frame.kind == frames.HEADERS:
                    return data, {str(name): str(value) for name, value in fields.items()}
