"""Flow control both ways, as bytes on the wire."""

from __future__ import annotations

import struct

import pytest
from google.protobuf.wrappers_pb2 import BytesValue
from intermodal_http2 import frames, settings

from tests.lib.http2.conftest import Serving
from tests.lib.http2.peer import Frame, Peer, message

WINDOW = settings.DEFAULT_WINDOW


def setting(identifier: int, value: int) -> bytes:
    return frames.frame(frames.SETTINGS, 0, 0, struct.pack(">HL", identifier, value))


def size(found: list[Frame], stream: int) -> int:
    return sum(len(each.payload) for each in found if each.kind == frames.DATA and each.stream == stream)


def ask(peer: Peer, stream: int, count: int, length: int) -> int:
    """Let the server send so many messages; how many bytes they are."""
    value = f"{count} {length}".encode()
    peer.request(stream, "/test.Echo/Times", message(value))
    return count * len(message(b"x" * length))


def test_no_more_than_the_windows_is_sent(peer: Peer) -> None:
    total = ask(peer, 1, 1, 200_000)
    assert size(peer.ping(), 1) == WINDOW
    peer.send(frames.window_update(1, 1000))
    assert size(peer.ping(), 1) == 0  # the connection's window is used up, too
    peer.send(frames.window_update(0, 400))
    assert size(peer.ping(), 1) == 400
    peer.send(frames.window_update(0, 1 << 20), frames.window_update(1, 1 << 20))
    data, trailers = peer.answer(1)
    assert len(data) == total - WINDOW - 400
    assert trailers == {"grpc-status": "0"}


def test_the_first_window_changes_while_a_stream_is_open(peer: Peer) -> None:
    """It may take what a stream has, and more: below nought nothing is sent until the stream is above it again."""
    total = ask(peer, 1, 1, 100_000)
    assert size(peer.ping(), 1) == WINDOW
    peer.send(frames.window_update(0, 1 << 20))
    peer.send(setting(settings.INITIAL_WINDOW_SIZE, WINDOW - 5000))
    assert size(peer.ping(), 1) == 0
    peer.send(frames.window_update(1, 5000))
    assert size(peer.ping(), 1) == 0
    peer.send(frames.window_update(1, 7))
    assert size(peer.ping(), 1) == 7
    peer.send(setting(settings.INITIAL_WINDOW_SIZE, 1 << 20))
    data, _ = peer.answer(1)
    assert len(data) == total - WINDOW - 7


def test_a_window_of_nought(peer: Peer) -> None:
    peer.send(setting(settings.INITIAL_WINDOW_SIZE, 0))
    peer.request(1, data=message(b"hello"))
    assert size(peer.ping(), 1) == 0
    peer.send(frames.window_update(1, 1))
    assert size(peer.ping(), 1) == 1
    peer.send(frames.window_update(1, 100))
    data, trailers = peer.answer(1)
    assert (data, trailers) == (message(b"hello")[1:], {"grpc-status": "0"})


@pytest.mark.parametrize("largest", [settings.DEFAULT_FRAME, 100_000])
def test_frames_are_as_large_as_the_peer_takes(peer: Peer, largest: int) -> None:
    peer.send(setting(settings.MAX_FRAME_SIZE, largest), setting(settings.INITIAL_WINDOW_SIZE, 1 << 24))
    peer.send(frames.window_update(0, 1 << 24))
    ask(peer, 1, 1, 1 << 20)
    peer.answer(1)
    sizes = [len(each.payload) for each in peer.seen if each.kind == frames.DATA]
    assert max(sizes) == largest


def test_streams_take_turns(peer: Peer) -> None:
    """One that has much to send does not keep another waiting."""
    peer.send(setting(settings.INITIAL_WINDOW_SIZE, 1 << 30))
    ask(peer, 1, 8, 1 << 20)
    peer.ping()
    ask(peer, 3, 1, 100_000)
    peer.ping()
    peer.send(frames.window_update(0, 400_000))
    found = peer.ping()
    assert size(found, 3) > 100_000
    assert size(found, 1) > 100_000


@pytest.mark.parametrize("frame", [settings.DEFAULT_FRAME, (1 << 24) - 1])
def test_a_peer_that_allows_much_and_reads_late_gets_all_of_it(peer: Peer, frame: int) -> None:
    """However wide its windows, what waits for it stays small: such a peer is not taken for one that takes no answers."""
    peer.send(setting(settings.MAX_FRAME_SIZE, frame), setting(settings.INITIAL_WINDOW_SIZE, 0))
    peer.send(frames.window_update(0, 1 << 30))
    total = sum(ask(peer, stream, 1, 15 << 20) for stream in (1, 3))
    peer.ping()
    # Both may go on at one moment, within what is read at once.
    peer.send(setting(settings.INITIAL_WINDOW_SIZE, 1 << 30))
    found = 0
    while found < total:
        each = peer.read()
        assert each is not None, "the peer was cut off"
        found += len(each.payload) if each.kind == frames.DATA else 0
    assert found == total


def test_one_answer_waits_and_others_pass(peer: Peer) -> None:
    peer.send(setting(settings.INITIAL_WINDOW_SIZE, 1000))
    ask(peer, 1, 1, 50_000)
    peer.ping()
    peer.request(3, data=message(b"small"))
    assert peer.answer(3)[0] == message(b"small")


def test_a_stream_that_is_reset_while_it_waits(peer: Peer) -> None:
    ask(peer, 1, 100, 50_000)
    peer.ping()
    peer.frame(frames.RST_STREAM, 0, 1, bytes(3) + b"\x08")
    peer.send(frames.window_update(0, 1 << 20))
    assert size(peer.ping(), 1) == 0
    peer.request(3, data=message())
    assert peer.answer(3)[1] == {"grpc-status": "0"}


def test_an_upload_larger_than_the_window_is_let_through(peer: Peer) -> None:
    """One message of several windows: what completes it is acknowledged as it comes."""
    whole = message(b"u" * (3 * settings.STREAM_WINDOW))
    peer.frame(frames.HEADERS, frames.END_HEADERS, 1, peer.block("/test.Echo/Join"))
    allowed = settings.STREAM_WINDOW
    at = 0
    while at < len(whole):
        part = whole[at : at + min(settings.OUR_FRAME, allowed)]
        if part:
            peer.frame(frames.DATA, 0, 1, part)
            at += len(part)
            allowed -= len(part)
        else:
            allowed += int.from_bytes(peer.next(frames.WINDOW_UPDATE, 1).payload)
    peer.send(setting(settings.INITIAL_WINDOW_SIZE, 1 << 30), frames.window_update(0, 1 << 30))
    peer.frame(frames.DATA, frames.END_STREAM, 1)
    assert BytesValue.FromString(peer.answer(1)[0][5:]).value == b"u" * (3 * settings.STREAM_WINDOW)


def test_what_a_method_does_not_take_fills_the_window(serving: Serving, peer: Peer) -> None:
    """A method that takes nothing holds its client; beyond the window is a fault; once it takes, there is room again."""
    peer.send(setting(settings.INITIAL_WINDOW_SIZE, 1 << 30), frames.window_update(0, 1 << 30))
    for stream in (1, 3):
        peer.frame(frames.HEADERS, frames.END_HEADERS, stream, peer.block("/test.Echo/Deaf"))
        peer.frame(frames.DATA, 0, stream, message(b""))
        left = settings.STREAM_WINDOW - len(message(b""))
        data = message(b"x" * (settings.OUR_FRAME - 9))
        while left:
            part = data[: min(left, len(data))]
            peer.frame(frames.DATA, 0, stream, part)
            left -= len(part)
    assert [each for each in peer.ping() if each.kind == frames.WINDOW_UPDATE and each.stream] == []
    peer.frame(frames.DATA, 0, 3, b"x")
    assert peer.next(frames.RST_STREAM, 3).code == frames.FLOW_CONTROL_ERROR
    serving.do(serving.echo.hold.set)
    assert int.from_bytes(peer.next(frames.WINDOW_UPDATE, 1).payload) >= settings.STREAM_WINDOW // 4


def test_the_connections_window_is_kept(serving: Serving, peer: Peer) -> None:
    """It is larger than a stream's, and granted again as it is used."""
    used = 0
    for stream in range(1, 200, 2):
        peer.frame(frames.HEADERS, frames.END_HEADERS, stream, peer.block("/test.Echo/Deaf"))
        for _ in range(settings.STREAM_WINDOW // settings.OUR_FRAME // 8):
            peer.frame(frames.DATA, 0, stream, b"\0\0\x7f\0\0" + bytes(settings.OUR_FRAME - 5))
            used += settings.OUR_FRAME
        peer.frame(frames.RST_STREAM, 0, stream, bytes(3) + b"\x08")
    granted = sum(int.from_bytes(each.payload) for each in peer.ping() if each.kind == frames.WINDOW_UPDATE)
    assert used > settings.CONNECTION_WINDOW
    assert granted + settings.DEFAULT_WINDOW >= used
