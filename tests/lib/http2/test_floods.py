"""What a client could do without end, and where it does end: the others are still answered, and memory stays."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
from intermodal_http2 import frames, settings
from intermodal_http2.frames import frame
from intermodal_http2.hpack import literal

from tests.harness.waiting import until
from tests.lib.http2.conftest import Serving, connected
from tests.lib.http2.peer import Peer, message


def _one(peer: Peer, stream: int) -> bytes:
    return frame(frames.HEADERS, frames.END_HEADERS, stream, peer.block())


FLOODS: dict[str, Callable[[Peer, int], bytes]] = {
    "requests that are reset": lambda peer, number: _one(peer, 2 * number + 1) + frames.reset(2 * number + 1, 8),
    "requests that are wrong": lambda peer, number: frame(frames.HEADERS, 5, 2 * number + 1, b"\x83"),
    "settings": lambda peer, number: frame(frames.SETTINGS, 0, 0),
    "pings": lambda peer, number: frame(frames.PING, 0, 0, bytes(8)),
    "acknowledgements": lambda peer, number: frame(frames.PING, frames.ACK, 0, bytes(8)),
    "priorities": lambda peer, number: frame(frames.PRIORITY, 0, 1, bytes(5)),
    "unknown frames": lambda peer, number: frame(0xEE, 0, 1),
    "window updates": lambda peer, number: frames.window_update(0, 1),
    "empty DATA": lambda peer, number: _one(peer, 1) if number == 0 else frame(frames.DATA, 0, 1),
    "empty CONTINUATION": lambda peer, number: frame(frames.CONTINUATION if number else frames.HEADERS, 0, 1),
    "CONTINUATION": lambda peer, number: frame(frames.CONTINUATION if number else frames.HEADERS, 0, 1, bytes(16_000)),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_ends_its_own_connection(serving: Serving, flood: str) -> None:
    with connected(serving) as other, connected(serving) as peer:
        code = _flood(peer, FLOODS[flood])
        assert code == frames.ENHANCE_YOUR_CALM
        other.request(1, data=message(b"calm"))
        assert other.answer(1)[0] == message(b"calm")


def _flood(peer: Peer, make: Callable[[Peer, int], bytes]) -> int:
    """The code of the GOAWAY that ends it; what the server says meanwhile is read."""
    number = 0
    peer.sock.setblocking(False)
    waiting = b""
    said = b""
    while True:
        if not waiting:
            assert number < 200_000, "nothing ended the flood"
            waiting = b"".join(make(peer, each) for each in range(number, number + 200))
            number += 200
        try:
            waiting = waiting[peer.sock.send(waiting) :]
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):
            waiting = b"over"  # what it said last can still be read
        try:
            data = peer.sock.recv(1 << 20)
        except (BlockingIOError, ConnectionResetError):
            continue
        if not data:
            break
        said += data
    at = 0
    while said[at + 3] != frames.GOAWAY:
        at += 9 + int.from_bytes(said[at : at + 3])
    return int.from_bytes(said[at + 13 : at + 17])


def test_a_client_that_reads_nothing_is_cut_off(serving: Serving) -> None:
    """Answers that nobody takes are not kept without end."""
    fields = (b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/" + b"x" * 4000 + b"/Say")
    block = b"".join(literal(*field) for field in (*fields, (b"content-type", b"application/grpc")))
    with connected(serving) as other, connected(serving) as peer:
        requests = b"".join(frame(frames.HEADERS, 5, stream, block) for stream in range(1, 20_000, 2))
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            peer.send(requests)
        other.request(1, data=message(b"calm"))
        assert other.answer(1)[0] == message(b"calm")


def test_work_for_calls_that_were_given_up_counts(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call may be given up at once; what its method still does is counted among the calls that are open."""
    monkeypatch.setattr(settings, "STREAMS", 3)
    with connected(serving) as peer:
        for stream in (1, 3, 5, 7):
            peer.request(stream, "/test.Echo/Hang", message())
        assert peer.next(frames.RST_STREAM, 7).code == frames.REFUSED_STREAM
        for _ in range(3):
            assert serving.echo.begun.acquire(timeout=20)
        peer.frame(frames.RST_STREAM, 0, 1, bytes(3) + b"\x08")
        peer.ping()
        peer.request(9, data=message(b"room again"))
        assert peer.answer(9)[0] == message(b"room again")


def test_a_connection_that_goes_takes_its_calls_along(serving: Serving) -> None:
    with connected(serving) as peer:
        peer.request(1, "/test.Echo/Hang", message())
        peer.request(3, "/test.Echo/Watch", message())
        for _ in range(2):
            assert serving.echo.begun.acquire(timeout=20)
    until(lambda: sorted(serving.echo.ended) == ["hang", "watch"])


def test_half_a_frame_and_then_nothing(serving: Serving) -> None:
    with connected(serving) as peer:
        peer.send(frame(frames.DATA, 0, 1, bytes(100))[:50])
        peer.sock.shutdown(socket.SHUT_WR)
        assert frames.GOAWAY not in [each.kind for each in peer.rest()]
