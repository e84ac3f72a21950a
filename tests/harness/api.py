"""Calls of a daemon's gRPC services by name, ours or a peer's, and what codes they end with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import ModuleType, TracebackType
from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass

__all__ = ["Api", "code_of"]


class Api:
    """A channel to `address`, in a namespace and under a lease ("": none is told).

    `api.call(images_pb2, "Get", name="x")` is answered with the method's message, a streaming one with a list of them;
    the module's one service is meant. Raises grpc.RpcError.
    """

    def __init__(self, address: str, namespace: str = "", lease: str = "") -> None:
        self.address, self.namespace, self.lease = address, namespace, lease
        self._channel = grpc.insecure_channel(f"unix:{address}", [("grpc.use_local_subchannel_pool", 1)])

    def __enter__(self) -> Api:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def call(self, module: ModuleType, method: str, **fields: Any) -> Any:
        """A call with one message."""
        (service,) = module.DESCRIPTOR.services_by_name.values()
        request = GetMessageClass(service.methods_by_name[method].input_type)(**fields)
        return self.send(module, method, [request])

    def send(self, module: ModuleType, method: str, requests: Iterable[Any], timeout: float = 20) -> Any:
        """A call with these messages; of a method that takes a stream as many as there are."""
        (service,) = module.DESCRIPTOR.services_by_name.values()
        described = service.methods_by_name[method]
        decode = GetMessageClass(described.output_type).FromString
        path = f"/{service.full_name}/{method}"
        given = {"containerd-namespace": self.namespace, "containerd-lease": self.lease}
        metadata = tuple((name, value) for name, value in given.items() if value)

        def encode(request: Any) -> bytes:
            return request.SerializeToString()  # type: ignore[no-any-return]

        if described.client_streaming:
            streams = self._channel.stream_stream(path, encode, decode)
            return list(streams(iter(requests), metadata=metadata, timeout=timeout))
        (request,) = requests
        if described.server_streaming:
            return list(self._channel.unary_stream(path, encode, decode)(request, metadata=metadata, timeout=timeout))
        return self._channel.unary_unary(path, encode, decode)(request, metadata=metadata, timeout=timeout)


def code_of(work: Callable[[], object]) -> str:
    """How a call ends: "OK", or the name of its code."""
    try:
        work()
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"
