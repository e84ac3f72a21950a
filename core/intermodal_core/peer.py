"""Calls between two processes over a socket pair, either way; which values cross, a contract's signatures say.

A packet is a MessagePack array; descriptors travel beside it (SCM_RIGHTS), and in the array stands which one is meant:

    [CALL, number, target, method, arguments, keywords]     [CANCEL, number]
    [RESULT, number, value]                                 [ERROR, number, name, text...]

Errors cross by meaning: one of `intermodal_core.errors`, or why a plugin cannot be loaded, arrives as what it was.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import os
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any, Protocol, get_args, get_origin, get_type_hints

import msgspec

from intermodal_core import errors
from intermodal_core.errors import IntermodalError, Internal, InvalidArgument, PluginSkipped, Unavailable
from intermodal_core.forkserver import receive_packet, send_packet
from intermodal_core.loading import LoadError

__all__ = ["Method", "Peer", "Target", "close_all", "methods_of"]

_CALL, _CANCEL, _RESULT, _ERROR = range(4)
_KINDS = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
_MANY = (Iterator, Iterable, AsyncIterator)


class Method:
    """How one method of a contract crosses."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.plain = not inspect.iscoroutinefunction(function)
        self._signature = inspect.signature(function)
        self._hints = get_type_hints(function, include_extras=True)
        self._names = list(self._signature.parameters)[1:]
        result = self._hints.get("return", None)
        self._result = list[get_args(result)[0]] if get_origin(result) in _MANY else result  # type: ignore[misc]

    def pack(
        self, arguments: Sequence[Any], keywords: Mapping[str, Any]
    ) -> tuple[list[Any], dict[str, Any], list[int]]:
        """The arguments as they travel, and the descriptors among them. Raises TypeError where they do not fit."""
        bound = self._signature.bind_partial(None, *arguments, **keywords)
        fds: list[int] = []
        for name, value in bound.arguments.items():
            bound.arguments[name] = _swap(value, self._hints.get(name), lambda fd: _put(fds, fd))
        return list(bound.args[1:]), dict(bound.kwargs), fds

    def unpack(
        self, arguments: Sequence[Any], keywords: Mapping[str, Any], fds: Sequence[int]
    ) -> tuple[list[Any], dict[str, Any]]:
        """The arguments as the method gets them; what does not fit the contract raises InvalidArgument."""

        def take(value: Any, name: str) -> Any:
            hint = self._hints[name]
            return _swap(_convert(value, hint, name), hint, lambda index: fds[index] if index >= 0 else index)

        positional = [take(value, name) for value, name in zip(arguments, self._names, strict=False)]
        return positional, {name: take(value, name) for name, value in keywords.items()}

    def pack_result(self, value: Any) -> tuple[Any, list[int]]:
        """What a method returned, as it travels, and the descriptors in it."""
        fds: list[int] = []
        return _swap(value, self._result, lambda fd: _put(fds, fd)), fds

    def unpack_result(self, value: Any, fds: Sequence[int]) -> Any:
        """What the caller gets; the descriptors are the caller's."""
        return _swap(_convert(value, self._result, "the result"), self._result, fds.__getitem__)

    def drop(self, task: asyncio.Future[Any]) -> None:
        """Close the descriptors in a result that nobody wants any more."""
        if not task.cancelled() and task.exception() is None:
            _swap(task.result(), self._result, _close)


@cache
def methods_of(contract: type) -> Mapping[str, Method]:
    """Of each public method of a contract, how it crosses."""
    return {
        name: Method(function)
        for name in dir(contract)
        if not name.startswith("_") and callable(function := getattr(contract, name))
    }


class Target(Protocol):
    """Whom a call is for: finds a method of something by their names. Raises NotFound, FailedPrecondition."""

    async def __call__(self, target: str, method: str, /) -> tuple[Callable[..., Awaitable[Any]], Method]:
        """What to call, and how its values cross."""


class Peer:
    """One end, used on one loop. `find` gives what the other end calls; `ended` is set when the other end has gone."""

    def __init__(self, sock: socket.socket, find: Target) -> None:
        sock.setblocking(False)
        self.ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._find = find
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[tuple[Any, list[int]]]] = {}
        self._serving: dict[int, asyncio.Task[None]] = {}
        self._unsent: deque[tuple[bytes, list[int]]] = deque()
        self._loop.add_reader(sock, self._read)

    async def call(
        self, target: str, name: str, method: Method, arguments: Sequence[Any], keywords: Mapping[str, Any]
    ) -> Any:
        """Call a method of the other end's. Raises what it raises, Unavailable when that end has gone or goes meanwhile.

        Cancelling this cancels the other end's coroutine; a plain method goes on there, and its result is dropped.
        """
        positional, named, fds = method.pack(arguments, keywords)
        if self.ended.is_set():
            raise Unavailable("the other process has ended")
        number = next(self._numbers)
        self._send([_CALL, number, target, name, positional, named], fds)
        self._waiting[number] = future = self._loop.create_future()
        try:
            value, received = await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                close_all(future.result()[1])
            elif not self.ended.is_set():
                self._send([_CANCEL, number])
            raise
        finally:
            self._waiting.pop(number, None)
        return method.unpack_result(value, received)

    def close(self, why: str = "the other process has ended") -> None:
        """Let go of the other end; calls that wait raise Unavailable with the sentence. Idempotent."""
        if self.ended.is_set():
            return
        self.ended.set()
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        for _, fds in self._unsent:
            close_all(fds)
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Unavailable(f"{why}; the outcome of the call is unknown"))
        for task in list(self._serving.values()):
            task.cancel()

    def _send(self, message: list[Any], fds: Sequence[int] = ()) -> None:
        try:
            body = msgspec.msgpack.encode(message)
        except (TypeError, UnicodeEncodeError, OverflowError) as error:
            raise InvalidArgument(f"a value cannot cross to another process: {error}") from None
        try:
            if self._unsent:
                raise BlockingIOError
            send_packet(self._sock, body, fds)
        except BlockingIOError:  # the other end is busy; nobody may wait for it here
            self._unsent.append((body, [os.dup(fd) for fd in fds]))
            self._loop.add_writer(self._sock, self._flush)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the reader sees it, too

    def _flush(self) -> None:
        try:
            while self._unsent:
                send_packet(self._sock, *self._unsent[0])
                close_all(self._unsent.popleft()[1])
        except BlockingIOError:
            return
        except (BrokenPipeError, ConnectionResetError):
            pass
        self._loop.remove_writer(self._sock)

    def _read(self) -> None:
        while not self.ended.is_set():
            try:
                received = receive_packet(self._sock)
            except BlockingIOError:
                return
            if received is None:
                self.close()
                return
            kind, number, *rest = msgspec.msgpack.decode(received[0])
            if kind == _CALL:
                task = self._loop.create_task(self._serve(number, rest, received[1]))
                self._serving[number] = task
                task.add_done_callback(partial(self._served, number))
            elif kind == _CANCEL:
                if number in self._serving:
                    self._serving[number].cancel()
            else:
                self._settle(number, kind, rest, received[1])

    def _served(self, number: int, task: asyncio.Task[None]) -> None:
        del self._serving[number]

    def _settle(self, number: int, kind: int, rest: list[Any], fds: list[int]) -> None:
        future = self._waiting.get(number)
        if future is None or future.done():
            close_all(fds)
        elif kind == _RESULT:
            future.set_result((rest[0], fds))
        else:
            future.set_exception(_error(*rest))

    async def _serve(self, number: int, call: list[Any], fds: list[int]) -> None:
        target, name, arguments, keywords = call
        results: list[int] = []
        try:
            function, method = await self._find(target, name)
            positional, named = method.unpack(arguments, keywords, fds)
            value, results = method.pack_result(await function(*positional, **named))
            self._send([_RESULT, number, value], results)
        except Exception as error:
            self._send([_ERROR, number, *_failure(error)])
        finally:
            close_all((*fds, *results))


def _failure(error: Exception) -> list[str]:
    """An error as it travels."""
    if isinstance(error, LoadError):
        return ["LoadError", error.code, str(error), error.remedy]
    if isinstance(error, PluginSkipped):
        return ["PluginSkipped", error.reason, error.remedy]
    if not isinstance(error, IntermodalError):
        return ["Internal", f"raised {type(error).__name__}: {error}"]
    return [type(error).__name__, error.message]


def _error(name: str, *texts: str) -> Exception:
    if name == "LoadError":
        return LoadError(*texts)
    return _KINDS.get(name, Internal)(*texts)


def _convert(value: Any, hint: Any, what: str) -> Any:
    try:
        return msgspec.convert(value, hint, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"{what} does not fit the contract: {error}") from None


def _swap(value: Any, hint: Any, change: Callable[[int], int]) -> Any:
    """`value` with each descriptor in it changed; where they are, the hint says."""
    if any(isinstance(meta, msgspec.Meta) and (meta.extra or {}).get("descriptor") for meta in get_args(hint)[1:]):
        return change(value)
    if get_origin(hint) is tuple and ... not in get_args(hint):
        return tuple(_swap(item, kind, change) for item, kind in zip(value, get_args(hint), strict=False))
    return value


def _close(fd: int) -> int:
    os.close(fd)
    return fd


def _put(fds: list[int], fd: int) -> int:
    if fd < 0:
        return fd
    fds.append(fd)
    return len(fds) - 1


def close_all(fds: Iterable[int]) -> None:
    """Close them."""
    for fd in fds:
        os.close(fd)
