"""gRPC as grpcio's clients see it: the four kinds of methods, sizes, deadlines, cancellation, metadata, errors, the end."""

from __future__ import annotations

import asyncio
import gzip
import os
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import BytesValue
from intermodal_http2 import frames
from intermodal_http2.messages import LIMIT

from tests.harness.waiting import until
from tests.lib.http2.conftest import Echo, Serving, connected
from tests.lib.http2.peer import message

OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
]
TIMEOUT = 60


@pytest.fixture
def channel(serving: Serving) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"unix:{serving.address}", OPTIONS) as channel:
        yield channel


def stub(channel: Any, method: str) -> Any:
    """The method of Echo on a channel, sync or aio."""
    described = Echo.descriptor.methods_by_name[method]
    make = getattr(
        channel,
        f"{'stream' if described.client_streaming else 'unary'}_{'stream' if described.server_streaming else 'unary'}",
    )
    return make(
        f"/test.Echo/{method}",
        request_serializer=BytesValue.SerializeToString,
        response_deserializer=BytesValue.FromString,
    )


def value(data: bytes = b"x") -> BytesValue:
    return BytesValue(value=data)


def code(work: Callable[[], object]) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        work()
    return caught.value.code()


def test_the_four_kinds(channel: grpc.Channel) -> None:
    assert stub(channel, "Say")(value(b"hello"), timeout=TIMEOUT).value == b"hello"
    answers = [each.value for each in stub(channel, "Times")(value(b"3 2"), timeout=TIMEOUT)]
    assert answers == [b"\0\0", b"\1\1", b"\2\2"]
    assert list(stub(channel, "Times")(value(b"0 0"), timeout=TIMEOUT)) == []
    assert stub(channel, "Join")(map(value, (b"a", b"b", b"c")), timeout=TIMEOUT).value == b"abc"
    assert stub(channel, "Join")(iter(()), timeout=TIMEOUT).value == b""
    answers = [each.value for each in stub(channel, "Chat")(map(value, (b"ab", b"cd")), timeout=TIMEOUT)]
    assert answers == [b"ba", b"dc"]


def test_the_four_kinds_by_the_asyncio_client(serving: Serving) -> None:
    async def calls() -> None:
        async with grpc.aio.insecure_channel(f"unix:{serving.address}", OPTIONS) as channel:
            said = await asyncio.gather(*(stub(channel, "Say")(value(b"%d" % number)) for number in range(200)))
            assert [each.value for each in said] == [b"%d" % number for number in range(200)]
            assert [each.value async for each in stub(channel, "Times")(value(b"2 1"))] == [b"\0", b"\1"]
            call = stub(channel, "Chat")()
            for word in (b"one", b"two", b"three"):
                await call.write(value(word))
                assert (await call.read()).value == word[::-1]
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF  # type: ignore[attr-defined]
            call = stub(channel, "Join")()
            for word in (b"one", b"two"):
                await call.write(value(word))
            await call.done_writing()
            assert (await call).value == b"onetwo"

    asyncio.run(asyncio.wait_for(calls(), TIMEOUT))


@pytest.mark.parametrize("size", [0, 1, 16_379, 16_384, 70_000, LIMIT - 16])
def test_sizes_of_messages(channel: grpc.Channel, size: int) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    assert stub(channel, "Say")(value(data[:size]), timeout=TIMEOUT).value == data[:size]
    (answer,) = stub(channel, "Times")(value(b"1 %d" % size), timeout=TIMEOUT)
    assert answer.value == bytes(size)
    joined = stub(channel, "Join")(map(value, (data[: size // 2], data[size // 2 : size])), timeout=TIMEOUT)
    assert joined.value == data[:size]


def test_much_both_ways_at_once(channel: grpc.Channel) -> None:
    sent = [bytes([number]) * 300_000 for number in range(60)]
    answers = [each.value for each in stub(channel, "Chat")(map(value, sent), timeout=TIMEOUT)]
    assert answers == sent


def test_many_threads_on_one_connection(channel: grpc.Channel) -> None:
    failures: list[object] = []

    def work(number: int) -> None:
        data = bytes([number]) * (number * 3000)
        answers = {stub(channel, "Say")(value(data), timeout=TIMEOUT).value for _ in range(20)}
        if answers != {data}:
            failures.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert failures == []


def test_a_message_over_the_limit(channel: grpc.Channel) -> None:
    too_large = value(bytes(LIMIT + 1))
    assert code(lambda: stub(channel, "Say")(too_large, timeout=TIMEOUT)) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert code(lambda: stub(channel, "Join")(iter([too_large]), timeout=TIMEOUT)) is grpc.StatusCode.RESOURCE_EXHAUSTED
    answer = stub(channel, "Times")(value(b"1 %d" % (LIMIT + 1)), timeout=TIMEOUT)
    assert code(lambda: list(answer)) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stub(channel, "Say")(value(b"on"), timeout=TIMEOUT).value == b"on"


@pytest.mark.parametrize("text", ["gone", "100 % größer\n\t🚢", "", "x" * 5000])
def test_an_error_and_its_message(channel: grpc.Channel, text: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub(channel, "Fail")(value(text.encode()), timeout=TIMEOUT)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.NOT_FOUND, text)


@pytest.mark.parametrize("text", ["x" * 100_000, "ü" * 50_000])
def test_a_message_that_clients_would_refuse_is_cut(channel: grpc.Channel, text: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub(channel, "Fail")(value(text.encode()), timeout=TIMEOUT)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    said = caught.value.details() or ""
    assert said.endswith("...")
    assert text.startswith(said[:-3])
    assert len(said) > 900


def test_a_defect(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub(channel, "Break")(value(), timeout=TIMEOUT)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert caught.value.details() == "test.Echo.Break raised ZeroDivisionError: by nought"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/test.Nothing/Say", "unknown method Say for service test.Nothing"),
        ("/test.Echo/Missing", "unknown method Missing for service test.Echo"),
        ("/x", "unknown method x for service "),
    ],
)
def test_what_is_not_served(channel: grpc.Channel, path: str, said: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(path, None, None)(b"", timeout=TIMEOUT)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert caught.value.details() == said


def test_what_is_no_message_of_the_method(channel: grpc.Channel) -> None:
    assert (
        code(lambda: channel.unary_unary("/test.Echo/Say", None, None)(b"\xff", timeout=TIMEOUT))
        is grpc.StatusCode.INTERNAL
    )
    streams = channel.stream_unary("/test.Echo/Join", None, None)
    assert code(lambda: streams(iter([b"\xff"]), timeout=TIMEOUT)) is grpc.StatusCode.INTERNAL


def test_one_message_is_one(channel: grpc.Channel) -> None:
    """A method that takes one message is called with none, and with two."""
    streams = channel.stream_unary("/test.Echo/Say", None, None)
    for given in ([], [b"", b""]):
        assert code(lambda given=given: streams(iter(given), timeout=TIMEOUT)) is grpc.StatusCode.UNIMPLEMENTED  # type: ignore[misc]


@pytest.mark.parametrize("method", ["Hang", "Watch"])
def test_a_deadline_ends_the_method(serving: Serving, channel: grpc.Channel, method: str) -> None:
    with connected(serving) as peer:  # one that leaves it to the server to notice
        peer.request(1, f"/test.Echo/{method}", message(), grpc_timeout="50m")
        assert peer.answer(1)[1]["grpc-status"] == "4"
    until(lambda: serving.echo.ended == [method.lower()])
    call = stub(channel, method)(value(), timeout=0.05) if method == "Watch" else None
    work = (lambda: list(call)) if call is not None else (lambda: stub(channel, method)(value(), timeout=0.05))
    assert code(work) is grpc.StatusCode.DEADLINE_EXCEEDED
    until(lambda: serving.echo.ended == [method.lower()] * 2)


def test_a_deadline_that_is_kept_leaves_nothing(serving: Serving, channel: grpc.Channel) -> None:
    assert stub(channel, "Say")(value(), timeout=0.5).value == b"x"
    time.sleep(0.6)
    assert stub(channel, "Say")(value(), timeout=TIMEOUT).value == b"x"


@pytest.mark.parametrize("given", ["", "5", "m", "123456789S", "1x", "-1S"])
def test_a_timeout_that_is_none(serving: Serving, given: str) -> None:
    with connected(serving) as peer:
        peer.request(1, data=message(), grpc_timeout=given)
        status = peer.answer(1)[1]["grpc-status"]
        assert status == ("13" if given else "0")


def test_cancelling_ends_the_method(serving: Serving, channel: grpc.Channel) -> None:
    hanging = stub(channel, "Hang").future(value())
    assert serving.echo.begun.acquire(timeout=TIMEOUT)
    hanging.cancel()
    until(lambda: serving.echo.ended == ["hang"])
    watching = stub(channel, "Watch")(value())
    watching.initial_metadata()  # it was sent before any answer
    watching.cancel()
    until(lambda: serving.echo.ended == ["hang", "watch"])


def test_leaving_a_stream_midway(channel: grpc.Channel) -> None:
    answers = stub(channel, "Times")(value(b"100000 1000"), timeout=TIMEOUT)
    assert next(answers).value == bytes(1000)
    answers.cancel()
    assert stub(channel, "Say")(value(), timeout=TIMEOUT).value == b"x"


def test_metadata(channel: grpc.Channel) -> None:
    given = (("a-name", "one"), ("a-name", "two, three"), ("some-bin", b"\0\xff\x80"), ("some-bin", b"more"))

    def ask(name: str) -> Any:
        answer = stub(channel, "Metadata")(value(name.encode()), timeout=TIMEOUT, metadata=given)
        return answer.value.decode()

    assert ask("a-name") == repr(("one", ("one", "two, three")))
    assert ask("missing") == repr(("", ()))
    assert ask("some-bin").endswith(repr((b"\0\xff\x80", b"more")) + ")")
    assert ask("missing-bin") == repr(("", ()))


def test_binary_metadata_joined_by_commas_and_padded_or_not(serving: Serving) -> None:
    with connected(serving) as peer:
        peer.request(1, "/test.Echo/Metadata", message(b"some-bin"), some_bin="AP8, AA==,AA")
        assert BytesValue.FromString(peer.answer(1)[0][5:]).value.endswith(
            repr((b"\0\xff", b"\0", b"\0")).encode() + b")"
        )
        peer.request(3, "/test.Echo/Metadata", message(b"some-bin"), some_bin="!")
        assert peer.answer(3)[1]["grpc-status"] == "3"


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_requests(channel: grpc.Channel, compression: grpc.Compression) -> None:
    data = b"much the same " * 5000
    assert stub(channel, "Say")(value(data), timeout=TIMEOUT, compression=compression).value == data
    joined = stub(channel, "Join")(map(value, (data, b"!")), timeout=TIMEOUT, compression=compression)
    assert joined.value == data + b"!"


@pytest.mark.parametrize(
    ("encoding", "data", "status"),
    [
        ("snappy", b"\1", "12"),
        ("", b"\1", "13"),
        ("identity", b"\1", "13"),
        ("gzip", b"\2", "13"),
        ("gzip", b"\1not gzip", "13"),
        ("gzip", b"\1" + gzip.compress(bytes(LIMIT + 1), mtime=0), "8"),
        ("gzip", b"\1" + gzip.compress(message(), mtime=0)[:-1], "13"),
    ],
)
def test_compression_that_cannot_be_undone(serving: Serving, encoding: str, data: bytes, status: str) -> None:
    with connected(serving) as peer:
        more = {"grpc_encoding": encoding} if encoding else {}
        peer.request(1, data=data[:1] + struct.pack(">L", len(data) - 1) + data[1:], **more)
        assert peer.answer(1)[1]["grpc-status"] == status


def test_a_request_that_is_cut_off(serving: Serving) -> None:
    with connected(serving) as peer:
        for stream, method in ((1, "Say"), (3, "Join")):
            peer.request(stream, f"/test.Echo/{method}", message(b"long")[:-1])
            assert peer.answer(stream)[1]["grpc-status"] == "13"


@pytest.mark.parametrize(
    "fields", [{":method": "GET"}, {"content-type": "text/html"}, {"content-type": "application/grpc-web"}]
)
def test_what_is_not_grpc(serving: Serving, fields: dict[str, str]) -> None:
    with connected(serving) as peer:
        head = {":method": "POST", ":scheme": "http", ":path": "/test.Echo/Say", "content-type": "application/grpc"}
        peer.frame(frames.HEADERS, 5, 1, bytes(peer.encoder.encode({**head, **fields}.items())))
        assert peer.answer(1)[1][":status"] == "415"


def test_a_cheap_answer_is_one_write(serving: Serving) -> None:
    """HEADERS, DATA and trailers arrive together, from a stream of one message too."""
    with connected(serving) as peer:
        peer.ping()
        for stream, path in ((1, "/test.Echo/Say"), (3, "/test.Echo/Times")):
            peer.request(stream, path, message(b"1 1"))
            received = peer.sock.recv(1 << 16)
            for kind in (frames.HEADERS, frames.DATA, frames.HEADERS):
                assert received[3] == kind
                received = received[9 + int.from_bytes(received[:3]) :]
            assert received == b""


def test_content_types_of_grpc(serving: Serving) -> None:
    with connected(serving) as peer:
        for stream, kind in ((1, "application/grpc"), (3, "application/grpc+proto"), (5, "application/grpc;x=y")):
            fields = [(":method", "POST"), (":scheme", "http"), (":path", "/test.Echo/Say"), ("content-type", kind)]
            peer.frame(frames.HEADERS, frames.END_HEADERS, stream, bytes(peer.encoder.encode(fields)))
            peer.frame(frames.DATA, frames.END_STREAM, stream, message(kind.encode()))
            assert peer.answer(stream)[0] == message(kind.encode())


def test_the_end_lets_calls_under_way_finish(serving: Serving) -> None:
    """GOAWAY first with every stream, then, once the client has heard, with the last one; no more are taken."""
    with connected(serving) as peer:
        peer.frame(frames.HEADERS, frames.END_HEADERS, 1, peer.block("/test.Echo/Join"))
        peer.ping()
        closing = asyncio.run_coroutine_threadsafe(serving.server.close(TIMEOUT), serving.loop)
        first = peer.next(frames.GOAWAY)
        assert (int.from_bytes(first.payload[:4]), first.code) == (frames.MAX_WINDOW, frames.NO_ERROR)
        leaving = peer.next(frames.PING)
        peer.request(3, data=message(b"crossed on the way"))
        assert peer.answer(3)[0] == message(b"crossed on the way")
        peer.frame(frames.PING, frames.ACK, payload=leaving.payload)
        assert int.from_bytes(peer.next(frames.GOAWAY).payload[:4]) == 3
        peer.request(5, data=message())
        assert peer.next(frames.RST_STREAM, 5).code == frames.REFUSED_STREAM
        assert not closing.done()
        peer.frame(frames.DATA, frames.END_STREAM, 1, message(b"finished"))
        assert peer.answer(1) == (message(b"finished"), {"grpc-status": "0"})
        assert peer.rest() == []
        closing.result(TIMEOUT)


def test_the_end_does_not_wait_for_ever(serving: Serving, channel: grpc.Channel) -> None:
    hanging = stub(channel, "Hang").future(value())
    assert serving.echo.begun.acquire(timeout=TIMEOUT)
    serving.close(grace=0.1)
    assert code(hanging.result) is grpc.StatusCode.UNAVAILABLE
    assert serving.echo.ended == ["hang"]


def test_nobody_can_connect_before_the_mode_is_right(serving: Serving) -> None:
    assert stat.S_IMODE(os.stat(serving.address).st_mode) == 0o600
