"""The connection: typed calls to the daemon in one namespace, and what must last as long as the client."""

import os
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, TypeVar
from weakref import WeakSet

import grpc
import grpc.aio
from google.protobuf.message import Message
from intermodal_oci.references import validate_identifier

from intermodal._address import is_listening, socket_path
from intermodal._api import Method
from intermodal._errors import from_rpc, never_sent
from intermodal._iodir import IoDirectory
from intermodal._reactor import Reactor
from intermodal._stdio import Stdio
from intermodal._waiting import close_async

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)

MAX_MESSAGE: Final = 16 << 20
THE_CLIENTS: Final = -1.0
"""As a call's timeout: the one that the client was made with."""
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.default_authority", "localhost"),
    # A connection of its own: one that another client lost would hold this one up.
    ("grpc.use_local_subchannel_pool", 1),
    # The daemon is on this machine: after a restart it is back in a moment.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


class _Shared:
    """What the clients of several namespaces have in common."""

    def __init__(self, address: str, directory: str | None) -> None:
        self.path = socket_path(address)
        self.io = IoDirectory(self.path, directory)
        self.reactor = Reactor()
        self.streams: WeakSet[Stdio] = WeakSet()
        self.drained: dict[str, Stdio] = {}
        self.methods: dict[str, Callable[..., Any]] = {}
        self.grpc: grpc.aio.Channel | None = None


class AsyncChannel:
    """Calls to one daemon in one namespace. It connects with the first call."""

    def __init__(self, address: str, namespace: str, timeout: float, *, directory: str | None = None) -> None:
        self._shared = _Shared(address, directory)
        self.namespace = validate_identifier(namespace)
        self.timeout = timeout

    @property
    def address(self) -> str:
        """The daemon's socket."""
        return self._shared.path

    @property
    def io(self) -> IoDirectory:
        """Where FIFOs and logs are."""
        return self._shared.io

    @property
    def drained(self) -> dict[str, Stdio]:
        """Streams that the client writes to a log for as long as it lives, by what they belong to."""
        return self._shared.drained

    def open_stdio(self, *, stdin: bool, terminal: bool, limit: int | None, log: str | None = None) -> Stdio:
        """Streams for a process to be; what is not closed before is closed with the client."""
        shared = self._shared
        stdio = Stdio(shared.reactor, shared.io.base(), stdin=stdin, terminal=terminal, limit=limit, log=log)
        shared.streams.add(stdio)
        return stdio

    def scoped(self, namespace: str) -> "AsyncChannel":
        """The same connection in another namespace."""
        other = object.__new__(AsyncChannel)
        other._shared, other.timeout = self._shared, self.timeout
        other.namespace = validate_identifier(namespace)
        return other

    async def call(
        self, method: Method[Q, R], request: Q, *, timeout: float | None = THE_CLIENTS, lease: str = ""
    ) -> R:
        """One call. `timeout` in seconds, None for none; what it creates belongs to `lease`. Raises by meaning."""
        call = self._method(method, "unary_unary")
        limit = self.timeout if timeout == THE_CLIENTS else timeout
        metadata = self._metadata(lease)
        try:
            try:
                response: R = await call(request, timeout=limit, metadata=metadata)
            except grpc.RpcError as error:
                if not (never_sent(error) and is_listening(self.address)):
                    raise
                # The daemon is back, and gRPC would still wait before it tries again.
                response = await call(request, timeout=limit, metadata=metadata, wait_for_ready=True)
        except grpc.RpcError as error:
            raise from_rpc(error, self.address) from None
        return response

    async def stream(
        self, method: Method[Q, R], request: Q, *, since: int = 0, timeout: float | None = None
    ) -> AsyncIterator[R]:
        """The answers of a call that streams them. Raises by meaning."""
        metadata = self._metadata("") + ([("since", str(since))] if since else [])
        call = self._method(method, "unary_stream")(request, timeout=timeout, metadata=metadata)
        try:
            async for response in call:
                yield response
        except grpc.RpcError as error:
            raise from_rpc(error, self.address) from None
        finally:
            call.cancel()

    async def exchange(self, method: Method[Q, R], requests: AsyncIterator[Q], *, lease: str = "") -> AsyncIterator[R]:
        """The answers to a stream of requests. Raises by meaning."""
        call = self._method(method, "stream_stream")(requests, metadata=self._metadata(lease))
        try:
            async for response in call:
                yield response
        except grpc.RpcError as error:
            raise from_rpc(error, self.address) from None
        finally:
            call.cancel()

    async def close(self) -> None:
        """Close the connection for every namespace, and all streams."""
        shared = self._shared
        for stdio in list(shared.streams):
            stdio.close()
        shared.drained.clear()
        shared.reactor.close()
        if shared.grpc is not None:
            await close_async(shared.grpc)
            shared.grpc = None
            shared.methods.clear()

    def _metadata(self, lease: str) -> list[tuple[str, str]]:
        metadata = [("containerd-namespace", self.namespace)]
        return [*metadata, ("containerd-lease", lease)] if lease else metadata

    def _method(self, method: Method[Q, R], kind: str) -> Callable[..., Any]:
        shared = self._shared
        made = shared.methods.get(method.path)
        if made is None:
            if shared.grpc is None:
                shared.grpc = grpc.aio.insecure_channel(f"unix:{os.fspath(shared.path)}", options=_OPTIONS)
            made = getattr(shared.grpc, kind)(
                method.path,
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.response.FromString,
            )
            shared.methods[method.path] = made
        return made
