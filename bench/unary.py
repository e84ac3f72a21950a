"""One small call: the daemon's Version beside a bare grpc.aio server that answers the same message."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import grpc
from google.protobuf.empty_pb2 import Empty
from intermodal_api.containerd.services import version_pb2 as version

from bench.calls import Calls
from bench.figures import Figure
from bench.measuring import Bench, milliseconds, take_turns

_ECHO = "bare grpc.aio echo"
_CALLS = 200


def unary(bench: Bench) -> list[Figure]:
    """One call by a blocking Python client, whose own share is the same in all."""
    figure = Figure("one call (Version)", "ms", targets={_ECHO: 1.25})

    def each(calls: Calls) -> float:
        return milliseconds(lambda: [calls(version, "Version.Version") for _ in range(_CALLS)]) / _CALLS

    with _echo(str(bench.directory / "echo.sock")) as echo:
        samplers = {peer.name: partial(each, peer.calls) for peer in bench.peers}
        take_turns(figure, samplers | {_ECHO: partial(each, echo)}, bench.rounds)
    return [figure]


@contextmanager
def _echo(address: str) -> Iterator[Calls]:
    server = subprocess.Popen(
        [sys.executable, "-m", "bench.unary", address], stdout=subprocess.PIPE, start_new_session=True
    )
    calls = Calls(address, "bench")
    try:
        assert server.stdout is not None
        server.stdout.readline()
        yield calls
    finally:
        calls.close()
        server.kill()
        server.communicate()


async def _serve(address: str) -> None:
    answer = version.VersionResponse(version="v0.0.0", revision="0" * 40)

    async def handle(_request: Empty, _context: object) -> version.VersionResponse:
        return answer

    handler = grpc.unary_unary_rpc_method_handler(
        handle, request_deserializer=Empty.FromString, response_serializer=version.VersionResponse.SerializeToString
    )
    service = version.DESCRIPTOR.services_by_name["Version"].full_name
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Version": handler}),))
    server.add_insecure_port(f"unix:{address}")
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
