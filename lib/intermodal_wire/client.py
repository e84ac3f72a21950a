"""Calls of a gRPC server on a unix socket, from threads. grpcio is imported with the first one."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass
from intermodal_core.errors import IntermodalError, Unavailable, by_code, from_os_error

if TYPE_CHECKING:
    import grpc

__all__ = ["Client"]

#: Both ways; grpc's own default is 4 MiB.
MESSAGE_LIMIT = 16 << 20


class Client:
    """The server at `address`; `headers` go with each call, which gets `timeout` seconds (0: any time).

    A server that is not there costs no time: while the channel is down, the socket is tried by itself, and a new channel is made as
    soon as it takes a connection. Errors are raised by meaning. May be used from several threads.
    """

    def __init__(self, address: str, headers: Mapping[str, str] | None = None, timeout: float = 0) -> None:
        self.address = address
        self._headers = [(key, value) for key, value in (headers or {}).items() if value]
        self._timeout = timeout or None
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None

    def call(self, service: ServiceDescriptor, name: str, request: Any) -> Any:
        """A unary call. Raises what the server answers, Unavailable where it is not there."""
        return self._invoke(service, name, request, lambda call: call)

    def stream(self, service: ServiceDescriptor, name: str, request: Any) -> list[Any]:
        """All messages that a call answers with."""
        return self._invoke(service, name, request, list)  # type: ignore[no-any-return]

    def each(self, service: ServiceDescriptor, name: str, request: Any | Iterator[Any]) -> Iterator[Any]:
        """The messages as they come; `request` is an iterator where the client streams. It has no time limit."""
        with _meaning(self, f"{service.name}.{name} at {self.address}"):
            yield from self._method(service, name)(request, metadata=self._headers)

    def close(self) -> None:
        """Let go of the connection; a later call makes another."""
        with self._lock:
            channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def _invoke(self, service: ServiceDescriptor, name: str, request: Any, collect: Any) -> Any:
        with _meaning(self, f"{service.name}.{name} at {self.address}"):
            return collect(self._method(service, name)(request, timeout=self._timeout, metadata=self._headers))

    def _method(self, service: ServiceDescriptor, name: str) -> Any:
        method = service.methods_by_name[name]
        channel = self._connected()
        shapes: dict[tuple[bool, bool], Any] = {
            (False, False): channel.unary_unary,
            (False, True): channel.unary_stream,
            (True, True): channel.stream_stream,
        }
        return shapes[method.client_streaming, method.server_streaming](
            f"/{service.full_name}/{name}",
            request_serializer=GetMessageClass(method.input_type).SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )

    def _connected(self) -> grpc.Channel:
        with self._lock:
            if self._channel is None:
                _try(self.address)
                import grpc

                self._channel = grpc.insecure_channel(
                    f"unix:{self.address}",
                    options=[
                        ("grpc.max_receive_message_length", MESSAGE_LIMIT),
                        ("grpc.max_send_message_length", MESSAGE_LIMIT),
                        ("grpc.default_authority", "localhost"),  # not every server takes a path as one
                        ("grpc.use_local_subchannel_pool", 1),
                        ("grpc.enable_retries", 0),
                    ],
                )
            return self._channel


class _meaning:  # noqa: N801 - a context manager, used as the function that contextlib would make of it
    """Puts the errors of a call into the closed set; one that says that nobody is there drops the channel."""

    def __init__(self, client: Client, doing: str) -> None:
        self._client = client
        self._doing = doing

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, IntermodalError) or not hasattr(error, "code"):
            return
        code = error.code().value[0]
        if code == Unavailable.code:
            self._client.close()
        raise by_code(code, f"{self._doing}: {error.details()}") from None  # type: ignore[attr-defined]


def _try(address: str) -> None:
    """Raise Unavailable where nobody listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
        sock.settimeout(1)
        try:
            sock.connect(address)
        except OSError as error:
            raise Unavailable(str(from_os_error(error, f"connecting to {address}"))) from None
