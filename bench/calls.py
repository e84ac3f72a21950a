"""containerd's API as raw calls: one blocking gRPC channel, the wire's own messages, nothing between.

Every daemon is driven by the same few lines, so that what differs between two daemons is the daemons.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from functools import cache
from types import ModuleType
from typing import Any

import grpc
from google.protobuf import message_factory

_LARGEST = 16 << 20


class Calls:
    """A channel to the daemon at `address` whose calls are in `namespace`."""

    def __init__(self, address: str, namespace: str) -> None:
        limits = [("grpc.max_receive_message_length", _LARGEST), ("grpc.max_send_message_length", _LARGEST)]
        self._channel = grpc.insecure_channel(f"unix:{address}", options=limits)
        self.metadata: tuple[tuple[str, str], ...] = (("containerd-namespace", namespace),)
        self._stubs: dict[tuple[str, str, bool], Any] = {}

    def __call__(self, service: ModuleType, method: str, **fields: Any) -> Any:
        """`calls(tasks, "Tasks.Start", container_id="x")`: the answer. Raises grpc.RpcError."""
        request, stub = self._prepare(service, method, fields)
        return stub(request, metadata=self.metadata, timeout=60)

    def begin(self, service: ModuleType, method: str, **fields: Any) -> Any:
        """The same without waiting; `.result()` is the answer."""
        request, stub = self._prepare(service, method, fields)
        return stub.future(request, metadata=self.metadata, timeout=60)

    def stream(self, service: ModuleType, method: str, **fields: Any) -> Iterator[Any]:
        """The answers of a method that streams."""
        request, stub = self._prepare(service, method, fields, streams=True)
        yield from stub(request, metadata=self.metadata, timeout=60)

    def leased(self, lease: str) -> Calls:
        """Calls on the same channel, whose results belong to the lease."""
        leased = copy(self)
        leased.metadata = (*self.metadata, ("containerd-lease", lease))
        return leased

    def close(self) -> None:
        self._channel.close()

    def _prepare(
        self, service: ModuleType, method: str, fields: dict[str, Any], streams: bool = False
    ) -> tuple[Any, Any]:
        path, request, response = _method(service, method)
        key = (service.__name__, method, streams)
        if key not in self._stubs:
            make = self._channel.unary_stream if streams else self._channel.unary_unary
            self._stubs[key] = make(
                path, request_serializer=request.SerializeToString, response_deserializer=response.FromString
            )
        return request(**fields), self._stubs[key]


@cache
def _method(service: ModuleType, name: str) -> tuple[str, Any, Any]:
    """The path of `Service.Method`, the classes of its request and its answer."""
    service_name, _, method_name = name.partition(".")
    described = service.DESCRIPTOR.services_by_name[service_name]
    method = described.methods_by_name[method_name]
    request, response = (message_factory.GetMessageClass(kind) for kind in (method.input_type, method.output_type))
    return f"/{described.full_name}/{method.name}", request, response
