"""Each rule of HTTP/2 that a client can break, and the code that answers it (RFC 9113)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

import pytest
from intermodal_http2 import frames, settings
from intermodal_http2.frames import frame

from tests.lib.http2.conftest import Serving, connected
from tests.lib.http2.peer import Peer, message

WORD = struct.Struct(">L").pack


def setting(identifier: int, value: int) -> bytes:
    return frame(frames.SETTINGS, 0, 0, struct.pack(">HL", identifier, value))


def opened(peer: Peer, stream: int = 1, flags: int = 0) -> bytes:
    """A request of a method that waits, so that the stream stays."""
    return frame(frames.HEADERS, frames.END_HEADERS | flags, stream, peer.block("/test.Echo/Deaf"))


def over(peer: Peer) -> bytes:
    """A stream that both sides have ended."""
    peer.request(1, data=message())
    peer.answer(1)
    return b""


def fields(peer: Peer, *given: tuple[str, str]) -> bytes:
    return frame(frames.HEADERS, frames.END_HEADERS, 1, bytes(peer.encoder.encode(given)))


GOOD = (":method", "POST"), (":scheme", "http"), (":path", "/test.Echo/Deaf")

CONNECTION: dict[str, tuple[int, Callable[[Peer], bytes]]] = {
    "a frame that is too large": (
        frames.FRAME_SIZE_ERROR,
        lambda peer: frame(frames.DATA, 0, 1, bytes(settings.OUR_FRAME + 1)),
    ),
    "DATA of the connection": (frames.PROTOCOL_ERROR, lambda peer: frame(frames.DATA, 0, 0, b"x")),
    "DATA of an idle stream": (frames.PROTOCOL_ERROR, lambda peer: frame(frames.DATA, 0, 5, b"x")),
    "DATA of a stream that is over": (
        frames.STREAM_CLOSED,
        lambda peer: over(peer) + frame(frames.DATA, 0, 1, b"x"),
    ),
    "HEADERS of a stream that is over": (frames.STREAM_CLOSED, lambda peer: over(peer) + opened(peer)),
    "HEADERS of the connection": (frames.PROTOCOL_ERROR, lambda peer: opened(peer, 0)),
    "HEADERS of an even stream": (frames.PROTOCOL_ERROR, lambda peer: opened(peer, 2)),
    "HEADERS of a lower stream": (frames.STREAM_CLOSED, lambda peer: opened(peer, 5) + opened(peer, 3)),
    "padding without its length": (frames.FRAME_SIZE_ERROR, lambda peer: frame(frames.HEADERS, 0xC, 1)),
    "padding as long as the frame": (
        frames.PROTOCOL_ERROR,
        lambda peer: opened(peer) + frame(frames.DATA, frames.PADDED, 1, b"\x04abc"),
    ),
    "HEADERS without room for priority": (frames.FRAME_SIZE_ERROR, lambda peer: frame(frames.HEADERS, 0x24, 1, b"abc")),
    "HEADERS that depend on themselves": (
        frames.PROTOCOL_ERROR,
        lambda peer: frame(frames.HEADERS, 0x24, 1, WORD(1) + b"\0" + peer.block()),
    ),
    "a block that cannot be read": (
        frames.COMPRESSION_ERROR,
        lambda peer: frame(frames.HEADERS, 4, 1, b"\xff\xff\xff"),
    ),
    "CONTINUATION of nothing": (frames.PROTOCOL_ERROR, lambda peer: frame(frames.CONTINUATION, 4, 1)),
    "CONTINUATION of another stream": (
        frames.PROTOCOL_ERROR,
        lambda peer: frame(frames.HEADERS, 0, 1, peer.block()) + frame(frames.CONTINUATION, 4, 3),
    ),
    "a frame within a block": (
        frames.PROTOCOL_ERROR,
        lambda peer: frame(frames.HEADERS, 0, 1, peer.block()) + frame(frames.PING, 0, 0, bytes(8)),
    ),
    "an unknown frame within a block": (
        frames.PROTOCOL_ERROR,
        lambda peer: frame(frames.HEADERS, 0, 1, peer.block()) + frame(0xEE, 0, 1),
    ),
    "PRIORITY of the connection": (frames.PROTOCOL_ERROR, lambda peer: frame(frames.PRIORITY, 0, 0, bytes(5))),
    "RST_STREAM of the connection": (frames.PROTOCOL_ERROR, lambda peer: frame(frames.RST_STREAM, 0, 0, WORD(8))),
    "RST_STREAM of an idle stream": (frames.PROTOCOL_ERROR, lambda peer: frame(frames.RST_STREAM, 0, 9, WORD(8))),
    "RST_STREAM of three bytes": (
        frames.FRAME_SIZE_ERROR,
        lambda peer: opened(peer) + frame(frames.RST_STREAM, 0, 1, b"abc"),
    ),
    "SETTINGS of a stream": (frames.PROTOCOL_ERROR, lambda peer: frame(frames.SETTINGS, 0, 1)),
    "SETTINGS of five bytes": (frames.FRAME_SIZE_ERROR, lambda peer: frame(frames.SETTINGS, 0, 0, b"abcde")),
    "SETTINGS acknowledged at length": (frames.FRAME_SIZE_ERROR, lambda peer: frame(frames.SETTINGS, 1, 0, bytes(6))),
    "ENABLE_PUSH of two": (frames.PROTOCOL_ERROR, lambda peer: setting(2, 2)),
    "INITIAL_WINDOW_SIZE too large": (frames.FLOW_CONTROL_ERROR, lambda peer: setting(4, 1 << 31)),
    "INITIAL_WINDOW_SIZE that a stream cannot bear": (
        frames.FLOW_CONTROL_ERROR,
        lambda peer: opened(peer) + frames.window_update(1, (1 << 31) - 65536) + setting(4, 65537),
    ),
    "MAX_FRAME_SIZE too small": (frames.PROTOCOL_ERROR, lambda peer: setting(5, 16383)),
    "MAX_FRAME_SIZE too large": (frames.PROTOCOL_ERROR, lambda peer: setting(5, 1 << 24)),
    "PUSH_PROMISE": (frames.PROTOCOL_ERROR, lambda peer: frame(frames.PUSH_PROMISE, 4, 1, WORD(2))),
    "PING of a stream": (frames.PROTOCOL_ERROR, lambda peer: frame(frames.PING, 0, 1, bytes(8))),
    "PING of six bytes": (frames.FRAME_SIZE_ERROR, lambda peer: frame(frames.PING, 0, 0, bytes(6))),
    "GOAWAY of a stream": (frames.PROTOCOL_ERROR, lambda peer: frame(frames.GOAWAY, 0, 1, bytes(8))),
    "GOAWAY of four bytes": (frames.FRAME_SIZE_ERROR, lambda peer: frame(frames.GOAWAY, 0, 0, bytes(4))),
    "WINDOW_UPDATE of three bytes": (frames.FRAME_SIZE_ERROR, lambda peer: frame(frames.WINDOW_UPDATE, 0, 0, b"abc")),
    "WINDOW_UPDATE by nothing": (frames.PROTOCOL_ERROR, lambda peer: frames.window_update(0, 0)),
    "WINDOW_UPDATE of an idle stream": (frames.PROTOCOL_ERROR, lambda peer: frames.window_update(7, 1)),
    "WINDOW_UPDATE over the largest": (frames.FLOW_CONTROL_ERROR, lambda peer: frames.window_update(0, (1 << 31) - 1)),
}

STREAM: dict[str, tuple[int, Callable[[Peer], bytes]]] = {
    "DATA after the end": (
        frames.STREAM_CLOSED,
        lambda peer: opened(peer, flags=frames.END_STREAM) + frame(frames.DATA, 0, 1, b"x"),
    ),
    "HEADERS after the end": (
        frames.STREAM_CLOSED,
        lambda peer: opened(peer, flags=frames.END_STREAM) + fields(peer, ("x", "y")),
    ),
    "trailers that are not the end": (frames.PROTOCOL_ERROR, lambda peer: opened(peer) + fields(peer, ("x", "y"))),
    "a pseudo-header in the trailers": (
        frames.PROTOCOL_ERROR,
        lambda peer: opened(peer) + frame(frames.HEADERS, 5, 1, bytes(peer.encoder.encode([(":path", "y")]))),
    ),
    "no path": (frames.PROTOCOL_ERROR, lambda peer: fields(peer, *GOOD[:2])),
    "no method": (frames.PROTOCOL_ERROR, lambda peer: fields(peer, *GOOD[1:])),
    "no scheme": (frames.PROTOCOL_ERROR, lambda peer: fields(peer, GOOD[0], GOOD[2])),
    "a path twice": (frames.PROTOCOL_ERROR, lambda peer: fields(peer, *GOOD, GOOD[2])),
    "an unknown pseudo-header": (frames.PROTOCOL_ERROR, lambda peer: fields(peer, *GOOD, (":status", "200"))),
    "a late pseudo-header": (frames.PROTOCOL_ERROR, lambda peer: fields(peer, *GOOD[:2], ("a", "b"), GOOD[2])),
    "an upper-case name": (frames.PROTOCOL_ERROR, lambda peer: fields(peer, *GOOD, ("X-A", "b"))),
    "an empty name": (frames.PROTOCOL_ERROR, lambda peer: fields(peer, *GOOD, ("", "b"))),
    "a line break in a value": (frames.PROTOCOL_ERROR, lambda peer: fields(peer, *GOOD, ("a", "b\r\nc"))),
    "a header of connections": (frames.PROTOCOL_ERROR, lambda peer: fields(peer, *GOOD, ("connection", "close"))),
    "te that is not trailers": (frames.PROTOCOL_ERROR, lambda peer: fields(peer, *GOOD, ("te", "gzip"))),
    "content-length that is no number": (
        frames.PROTOCOL_ERROR,
        lambda peer: fields(peer, *GOOD, ("content-length", "x")),
    ),
    "more than the content-length": (
        frames.PROTOCOL_ERROR,
        lambda peer: (
            fields(peer, *GOOD, ("content-type", "application/grpc"), ("content-length", "2"))
            + frame(frames.DATA, 0, 1, b"abc")
        ),
    ),
    "less than the content-length": (
        frames.PROTOCOL_ERROR,
        lambda peer: (
            fields(peer, *GOOD, ("content-type", "application/grpc"), ("content-length", "2"))
            + frame(frames.DATA, frames.END_STREAM, 1, b"a")
        ),
    ),
    "a head that is too large": (
        frames.ENHANCE_YOUR_CALM,
        lambda peer: fields(peer, *GOOD, *((f"x{number}", "v" * 500) for number in range(125))),
    ),
    "PRIORITY of four bytes": (
        frames.FRAME_SIZE_ERROR,
        lambda peer: opened(peer) + frame(frames.PRIORITY, 0, 1, bytes(4)),
    ),
    "PRIORITY that depends on itself": (
        frames.PROTOCOL_ERROR,
        lambda peer: opened(peer) + frame(frames.PRIORITY, 0, 1, WORD(1) + b"\0"),
    ),
    "WINDOW_UPDATE by nothing": (frames.PROTOCOL_ERROR, lambda peer: opened(peer) + frames.window_update(1, 0)),
    "WINDOW_UPDATE over the largest": (
        frames.FLOW_CONTROL_ERROR,
        lambda peer: opened(peer) + frames.window_update(1, (1 << 31) - 1),
    ),
}


@pytest.mark.parametrize("rule", CONNECTION)
def test_a_rule_of_the_connection(peer: Peer, rule: str) -> None:
    code, broken = CONNECTION[rule]
    peer.send(broken(peer))
    assert peer.next(frames.GOAWAY).code == code
    assert peer.rest() == []


@pytest.mark.parametrize("rule", STREAM)
def test_a_rule_of_a_stream(peer: Peer, rule: str) -> None:
    """The stream is reset, and the connection goes on."""
    code, broken = STREAM[rule]
    peer.send(broken(peer))
    assert peer.next(frames.RST_STREAM, 1).code == code
    peer.request(3, data=message(b"still here"))
    data, trailers = peer.answer(3)
    assert (data, trailers) == (message(b"still here"), {"grpc-status": "0"})


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", frames.PREFACE[:-1] + b"x"], ids=["http1", "nearly"])
def test_a_preface_that_is_none(serving: Serving, data: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(serving.address)
        peer = Peer(sock)
        peer.send(data)
        assert peer.next(frames.GOAWAY).code == frames.PROTOCOL_ERROR
        assert peer.rest() == []


def test_the_first_frame_is_settings(serving: Serving) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(serving.address)
        peer = Peer(sock)
        peer.send(frames.PREFACE, frame(frames.PING, 0, 0, bytes(8)))
        assert peer.next(frames.GOAWAY).code == frames.PROTOCOL_ERROR


def test_frames_may_come_byte_by_byte(serving: Serving) -> None:
    with connected(serving) as peer:
        whole = frame(frames.HEADERS, frames.END_HEADERS, 1, peer.block()) + frame(frames.DATA, 1, 1, message(b"slow"))
        for byte in whole:
            peer.send(bytes([byte]))
        assert peer.answer(1)[0] == message(b"slow")


def test_what_must_be_passed_over(peer: Peer) -> None:
    """Unknown frames and settings, flags without meaning, PRIORITY, padding, and a header block in many pieces."""
    block = peer.block("/test.Echo/Join")
    peer.send(
        frame(0xEE, 0xFF, 1, b"anything"),
        setting(0xABC, 1),
        setting(1, 0),  # no dynamic table for our encoder
        frame(frames.PRIORITY, 0xFF, 7, WORD(3) + b"\0"),
        frame(
            frames.HEADERS, frames.PADDED | frames.PRIORITY_FLAG, 1, b"\x02" + WORD(3) + b"\x10" + block[:3] + b"\0\0"
        ),
        frame(frames.CONTINUATION, 0, 1, block[3:9]),
        frame(frames.CONTINUATION, 0, 1),
        frame(frames.CONTINUATION, frames.END_HEADERS, 1, block[9:]),
        frame(frames.DATA, frames.PADDED, 1, b"\x03" + message(b"one ") + b"abc"),
        frame(frames.DATA, frames.PADDED, 1, b"\x00" + message(b"two")[:4]),
        frame(frames.DATA, 0x80, 1, message(b"two")[4:]),
        frame(frames.HEADERS, 5, 1, bytes(peer.encoder.encode([("x-trailer", "1")]))),
    )
    assert peer.answer(1) == (message(b"one two"), {"grpc-status": "0"})


def test_ping_and_settings_are_acknowledged(peer: Peer) -> None:
    peer.next(frames.SETTINGS)  # the server's own
    assert peer.next(frames.SETTINGS).flags == frames.ACK
    peer.frame(frames.PING, payload=b"12345678")
    answered = peer.next(frames.PING)
    assert (answered.flags, answered.payload) == (frames.ACK, b"12345678")
    peer.frame(frames.PING, frames.ACK, payload=b"12345678")  # of a PING that was never sent
    assert peer.ping()[-1].flags == frames.ACK


def test_no_answer_uses_a_table(peer: Peer) -> None:
    """A client that allows none is told at once that there is none, as it may insist; also if its first call was given up."""
    peer.send(setting(1, 0))
    peer.decoder.max_allowed_table_size = 0
    peer.request(1, "/test.Echo/Hang", message())
    peer.ping()
    peer.frame(frames.RST_STREAM, 0, 1, WORD(frames.CANCEL))
    for stream in (3, 5):
        peer.request(stream, data=message())
        assert peer.answer(stream)[1] == {"grpc-status": "0"}
    assert not peer.decoder.header_table.dynamic_entries


def test_frames_of_a_stream_that_was_reset_here_are_passed_over(serving: Serving, peer: Peer) -> None:
    """What was on its way then is no fault, and counts for the connection's window."""
    peer.request(1, "/test.Nothing/Here")
    assert peer.answer(1)[1]["grpc-status"] == "12"
    assert peer.next(frames.RST_STREAM, 1).code == frames.NO_ERROR
    for _ in range(300):
        peer.frame(frames.DATA, 0, 1, bytes(settings.OUR_FRAME))
    peer.frame(frames.HEADERS, 5, 1, bytes(peer.encoder.encode([("x", "y")])))
    peer.frame(frames.RST_STREAM, 0, 1, WORD(frames.CANCEL))
    found = peer.ping()
    assert [each for each in found if each.kind == frames.WINDOW_UPDATE and each.stream == 0]
    peer.request(3, data=message(b"on"))
    assert peer.answer(3)[0] == message(b"on")
