"""The gRPC server: finds methods by the services' descriptors, passes namespace and lease, answers errors by meaning."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass
from intermodal_core.contracts.managers.store import Scope
from intermodal_core.errors import IntermodalError, Internal

__all__ = ["Call", "Server", "Service"]

log = logging.getLogger("intermodal.grpc")

#: Both ways; grpc's own default is 4 MiB.
MESSAGE_LIMIT = 16 << 20

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Call:
    """What a method may ask of its call."""

    __slots__ = ("_metadata", "context")

    def __init__(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self.context = context
        self._metadata = context.invocation_metadata() or ()

    def metadata(self, name: str) -> str:
        """A value that the client sent along, or ""."""
        for key, value in self._metadata:
            if key == name:
                return value if isinstance(value, str) else value.decode()
        return ""

    @property
    def scope(self) -> Scope:
        """The namespace and lease that the client named."""
        return Scope(self.metadata("containerd-namespace"), self.metadata("containerd-lease"))


class Service:
    """A service: its descriptor, and a coroutine method, or an async generator, for each method in snake case."""

    descriptor: ServiceDescriptor


class Server(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # the stubs know parameters that the class lacks
    """Serves `services` on a unix socket. `busy` is entered while a call runs."""

    def __init__(self, services: Iterable[Service], busy: Callable[[], AbstractContextManager[None]]) -> None:
        self._busy = busy
        self._methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        for service in services:
            for method in service.descriptor.methods:
                implementation = getattr(service, _snake(method.name), None)
                if implementation is not None:
                    self._methods[f"/{service.descriptor.full_name}/{method.name}"] = self._handler(
                        method, implementation
                    )
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", MESSAGE_LIMIT),
                ("grpc.max_send_message_length", MESSAGE_LIMIT),
                ("grpc.so_reuseport", 0),
            ]
        )
        self._server.add_generic_rpc_handlers((self,))

    async def listen(self, address: str, mode: int, owner: int, group: int) -> None:
        """Bind and serve; the socket is never open to more than `mode` says."""
        before = os.umask(0o777 & ~mode)
        try:
            self._server.add_insecure_port(f"unix:{address}")
        finally:
            os.umask(before)
        os.chmod(address, mode)
        if owner != -1 or group != -1:
            os.chown(address, owner, group)
        await self._server.start()

    async def close(self, grace: float) -> None:
        """Refuse new calls; those that run have `grace` seconds."""
        await self._server.stop(grace)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of a method; None answers UNIMPLEMENTED."""
        return self._methods.get(handler_call_details.method)

    def _handler(self, method: MethodDescriptor, implementation: Any) -> grpc.RpcMethodHandler[Any, Any]:
        decode = GetMessageClass(method.input_type).FromString
        encode = GetMessageClass(method.output_type).SerializeToString
        if method.server_streaming:
            make = (
                grpc.stream_stream_rpc_method_handler
                if method.client_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            return make(self._streaming(method, implementation), decode, encode)
        return grpc.unary_unary_rpc_method_handler(self._unary(method, implementation), decode, encode)

    def _unary(self, method: MethodDescriptor, implementation: Callable[[Any, Call], Awaitable[Any]]) -> Any:
        busy = self._busy

        async def handle(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            with busy():
                try:
                    return await implementation(request, Call(context))
                except IntermodalError as error:
                    failure = error
                except Exception as error:
                    log.exception("%s", method.full_name)
                    failure = Internal(f"{method.full_name} raised {type(error).__name__}: {error}")
            return await context.abort(_CODES[failure.code], str(failure))

        return handle

    def _streaming(self, method: MethodDescriptor, implementation: Callable[[Any, Call], AsyncIterator[Any]]) -> Any:
        busy = self._busy

        async def handle(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            with busy():
                try:
                    async for response in implementation(request, Call(context)):
                        yield response
                    return
                except IntermodalError as error:
                    failure = error
                except Exception as error:
                    log.exception("%s", method.full_name)
                    failure = Internal(f"{method.full_name} raised {type(error).__name__}: {error}")
            await context.abort(_CODES[failure.code], str(failure))

        return handle


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
