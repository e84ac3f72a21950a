"""Client against server over real sockets, and what broken peers can do to others."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.wrappers_pb2 import BytesValue, StringValue
from intermodal_api.google.rpc.status_pb2 import Status
from intermodal_api.ttrpc.request_pb2 import Response
from intermodal_core.errors import (
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from intermodal_ttrpc.channel import bind
from intermodal_ttrpc.client import Client
from intermodal_ttrpc.framing import MAX_PAYLOAD, encode
from intermodal_ttrpc.server import Call, Server, Services


async def echo(request: BytesValue, call: Call) -> BytesValue:
    return request


async def reverse_slowly(request: StringValue, call: Call) -> StringValue:
    await asyncio.sleep(0.001 * len(request.value))
    return StringValue(value=request.value[::-1] + call.metadata.get("suffix", ""))


async def missing(request: Empty, call: Call) -> Empty:
    raise NotFound("no such thing")


async def broken(request: Empty, call: Call) -> Empty:
    raise ZeroDivisionError("oops")


async def hang(request: Empty, call: Call) -> Empty:
    await asyncio.get_running_loop().create_future()
    return request


async def read_fds(request: BytesValue, call: Call) -> BytesValue:
    return BytesValue(value=b"|".join(os.read(fd, 100) for fd in call.fds))


SERVICES: Services = {
    "test.v1.Test": {
        "Echo": (BytesValue, echo),
        "Reverse": (StringValue, reverse_slowly),
        "Missing": (Empty, missing),
        "Broken": (Empty, broken),
        "Hang": (Empty, hang),
        "ReadFds": (BytesValue, read_fds),
    }
}


def serve(path: Path, body: Callable[[Client, Server], Awaitable[None]]) -> None:
    async def main() -> None:
        server = Server(bind(str(path)), SERVICES)
        client = await Client.connect(str(path))
        try:
            async with asyncio.timeout(30):
                await body(client, server)
        finally:
            client.close()
            await server.stop()

    asyncio.run(main())


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.sock"


def test_calls_share_a_connection_and_answers_find_their_callers(path: Path) -> None:
    async def body(client: Client, server: Server) -> None:
        words = [f"word-{number:03}" * (1 + number % 7) for number in range(200)]
        calls = [client.call("test.v1.Test", "Reverse", StringValue(value=w), StringValue) for w in words]
        assert [answer.value for answer in await asyncio.gather(*calls)] == [word[::-1] for word in words]

    serve(path, body)


def test_metadata_reaches_the_handler(path: Path) -> None:
    async def body(client: Client, server: Server) -> None:
        answer = await client.call(
            "test.v1.Test", "Reverse", StringValue(value="ab"), StringValue, metadata={"suffix": "!"}
        )
        assert answer.value == "ba!"

    serve(path, body)


def test_big_messages_and_the_limit(path: Path) -> None:
    async def body(client: Client, server: Server) -> None:
        big = BytesValue(value=os.urandom(3 << 20))
        answers = await asyncio.gather(*(client.call("test.v1.Test", "Echo", big, BytesValue) for _ in range(8)))
        assert all(answer == big for answer in answers)
        with pytest.raises(ResourceExhausted):
            await client.call("test.v1.Test", "Echo", BytesValue(value=bytes(MAX_PAYLOAD)), BytesValue)

    serve(path, body)


def test_errors_arrive_by_meaning(path: Path) -> None:
    async def body(client: Client, server: Server) -> None:
        with pytest.raises(NotFound, match="no such thing"):
            await client.call("test.v1.Test", "Missing", Empty(), Empty)
        with pytest.raises(Internal, match="ZeroDivisionError"):
            await client.call("test.v1.Test", "Broken", Empty(), Empty)
        with pytest.raises(Unimplemented, match="Nothing"):
            await client.call("test.v1.Test", "Nothing", Empty(), Empty)
        with pytest.raises(Unimplemented, match=r"other\.Service"):
            await client.call("other.Service", "Echo", Empty(), Empty)
        with pytest.raises(DeadlineExceeded):
            await client.call("test.v1.Test", "Hang", Empty(), Empty, timeout=0.05)

    serve(path, body)


def test_a_server_that_goes_away_fails_the_calls_under_way(path: Path) -> None:
    async def body(client: Client, server: Server) -> None:
        hanging = asyncio.ensure_future(client.call("test.v1.Test", "Hang", Empty(), Empty))
        await client.call("test.v1.Test", "Echo", BytesValue(), BytesValue)
        server.close()
        with pytest.raises(Unavailable):
            await hanging
        assert client.closed
        with pytest.raises(Unavailable):
            await client.call("test.v1.Test", "Echo", BytesValue(), BytesValue)

    serve(path, body)


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="nobody"):
        asyncio.run(Client.connect(str(tmp_path / "nobody.sock")))


def test_a_path_longer_than_a_socket_name(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 90) / ("e" * 90)
    directory.mkdir(parents=True)

    async def body(client: Client, server: Server) -> None:
        assert await client.call("test.v1.Test", "Echo", BytesValue(value=b"x"), BytesValue) == BytesValue(value=b"x")

    serve(directory / "long.sock", body)


def test_descriptors_arrive_with_their_own_call_and_none_leaks(path: Path) -> None:
    async def body(client: Client, server: Server) -> None:
        await client.call("test.v1.Test", "Echo", BytesValue(), BytesValue)
        before = open_fds()

        async def one(number: int) -> None:
            pipes = [os.pipe() for _ in range(number % 3)]
            for index, (_, write) in enumerate(pipes):
                os.write(write, f"{number}.{index}".encode())
            request = BytesValue(value=bytes(1000 * (number % 50)))
            answer = await client.call("test.v1.Test", "ReadFds", request, BytesValue, fds=[r for r, _ in pipes])
            assert answer.value == b"|".join(f"{number}.{index}".encode() for index in range(number % 3))
            for pair in pipes:
                os.close(pair[0])
                os.close(pair[1])

        for start in range(0, 200, 40):
            await asyncio.gather(*(one(number) for number in range(start, start + 40)))
        read, write = os.pipe()
        with pytest.raises(Unimplemented):
            await client.call("test.v1.Test", "Nothing", Empty(), Empty, fds=[read])
        os.close(read)
        os.close(write)
        assert open_fds() == before

    serve(path, body)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff" * 10,
        b"GET / HTTP/1.1\r\n\r\n" * 100,
        encode(1, 1, b"\xff\xff\xff"),
        encode(1, 2, b"an answer to nothing"),
        encode(1, 3, b"data"),
        encode(1, 1, b"")[:4],
        (MAX_PAYLOAD + 1).to_bytes(4, "big") + bytes([0, 0, 0, 1, 1, 0]) + b"some",
    ],
)
def test_a_broken_peer_hurts_only_itself(path: Path, garbage: bytes) -> None:
    async def body(client: Client, server: Server) -> None:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(path))
            peer.sendall(garbage)
            for _ in range(3):
                await client.call("test.v1.Test", "Echo", BytesValue(value=b"x"), BytesValue)
        await client.call("test.v1.Test", "Echo", BytesValue(value=b"x"), BytesValue)

    serve(path, body)


def test_oversize_is_refused_and_the_connection_goes_on(path: Path) -> None:
    async def body(client: Client, server: Server) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(path))
            peer.setblocking(False)
            length = MAX_PAYLOAD + 1
            await loop.sock_sendall(peer, length.to_bytes(4, "big") + bytes([0, 0, 0, 5, 1, 0]) + bytes(length))
            answer = await loop.sock_recv(peer, 4096)
            assert answer[4:9] == bytes([0, 0, 0, 5, 2])
            status: Status = Response.FromString(answer[10:]).status
            assert status.code == ResourceExhausted.code
            await loop.sock_sendall(peer, encode(7, 1, b"\xff"))
            answer = await loop.sock_recv(peer, 4096)
            assert Response.FromString(answer[10:]).status.code == InvalidArgument.code

    serve(path, body)


def test_a_peer_that_never_reads_does_not_hold_up_others_nor_fill_memory(path: Path) -> None:
    async def body(client: Client, server: Server) -> None:
        greedy = await Client.connect(str(path))
        channel: Any = greedy._channel
        asyncio.get_running_loop().remove_reader(channel._sock.fileno())
        big = BytesValue(value=bytes(1 << 20))
        calls = [asyncio.ensure_future(greedy.call("test.v1.Test", "Echo", big, BytesValue)) for _ in range(64)]
        for _ in range(20):
            await client.call("test.v1.Test", "Echo", BytesValue(value=b"x"), BytesValue, timeout=5)
        held = sum(other._waiting for other in server.channels)
        assert held < 16 << 20
        greedy.close()
        for result in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(result, Unavailable)

    serve(path, body)
