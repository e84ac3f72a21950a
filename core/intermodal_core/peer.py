"""Calls between two processes over a socket pair, either way; which values cross, a contract's signatures say.

A packet is a MessagePack array; descriptors travel beside it (SCM_RIGHTS), and in the array stands which one is meant:

    [CALL, number, target, method, arguments, keywords]     [CANCEL, number]
    [RESULT, number, value]                                 [ERROR, number, name, text...]

An object of a Protocol class (what a verifier may ask, a body that is read) crosses as a loan: a number and its plain attributes, and
whoever gets it calls back. One that is an argument is lent for the call, a result until it is closed or read to its end.

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
from concurrent.futures import Future
from functools import cache, partial
from typing import Any, Protocol, get_args, get_origin, get_type_hints

import msgspec

from intermodal_core import errors
from intermodal_core.calls import Pool
from intermodal_core.errors import (
    IntermodalError,
    Internal,
    InvalidArgument,
    NotFound,
    PluginSkipped,
    Unavailable,
    from_os_error,
)
from intermodal_core.forkserver import receive_packet, send_packet
from intermodal_core.loading import LoadError

__all__ = ["Method", "Peer", "Target", "close_all", "methods_of"]

_CALL, _CANCEL, _RESULT, _ERROR = range(4)
_KINDS = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
_MANY = (Iterator, Iterable, AsyncIterator)


#: Puts an object of a contract into what travels, or back.
Lend = Callable[[Any, type], Any]


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
        self, arguments: Sequence[Any], keywords: Mapping[str, Any], lend: Lend
    ) -> tuple[list[Any], dict[str, Any], list[int]]:
        """The arguments as they travel, and the descriptors among them. Raises TypeError where they do not fit."""
        bound = self._signature.bind_partial(None, *arguments, **keywords)
        fds: list[int] = []
        for name, value in bound.arguments.items():
            bound.arguments[name] = _swap(value, self._hints.get(name), partial(_put, fds), lend)
        return list(bound.args[1:]), dict(bound.kwargs), fds

    def unpack(
        self, arguments: Sequence[Any], keywords: Mapping[str, Any], fds: Sequence[int], borrow: Lend
    ) -> tuple[list[Any], dict[str, Any]]:
        """The arguments as the method gets them; what does not fit the contract raises InvalidArgument."""

        def take(value: Any, name: str) -> Any:
            hint = self._hints[name]
            return _swap(_convert(value, hint, name), hint, lambda index: fds[index] if index >= 0 else index, borrow)

        positional = [take(value, name) for value, name in zip(arguments, self._names, strict=False)]
        return positional, {name: take(value, name) for name, value in keywords.items()}

    def pack_result(self, value: Any, lend: Lend) -> tuple[Any, list[int]]:
        """What a method returned, as it travels, and the descriptors in it."""
        fds: list[int] = []
        if isinstance(value, socket.socket):
            value = value.detach()  # a result is the caller's
        return _swap(value, self._result, partial(_put, fds), lend), fds

    def unpack_result(self, value: Any, fds: Sequence[int], borrow: Lend) -> Any:
        """What the caller gets; the descriptors are the caller's."""
        taken = _swap(_convert(value, self._result, "the result"), self._result, fds.__getitem__, borrow)
        return socket.socket(fileno=taken) if self._result is socket.socket else taken

    def drop(self, task: asyncio.Future[Any]) -> None:
        """Close the descriptors in a result that nobody wants any more."""
        if not task.cancelled() and task.exception() is None:
            _swap(task.result(), self._result, _close, lambda lent, contract: lent)


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
    """One end, used on one loop. `find` gives what the other end calls; `ended` is set when the other end has gone.

    `run` has a coroutine of a lent object run on the loop that it belongs to.
    """

    def __init__(
        self, sock: socket.socket, find: Target, run: Callable[[Any], Awaitable[Any]] = lambda work: work
    ) -> None:
        sock.setblocking(False)
        self.ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._find = find
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[tuple[Any, list[int]]]] = {}
        self._serving: dict[int, asyncio.Task[None]] = {}
        self._unsent: deque[tuple[bytes, list[int]]] = deque()
        self._run = run
        self._lent: dict[int, tuple[Any, Mapping[str, Method]]] = {}
        self._pool = Pool("lent", 8)  # for what is plain of a lent object
        self._loop.add_reader(sock, self._read)

    async def call(
        self, target: str, name: str, method: Method, arguments: Sequence[Any], keywords: Mapping[str, Any]
    ) -> Any:
        """Call a method of the other end's. Raises what it raises, Unavailable when that end has gone or goes meanwhile.

        Cancelling this cancels the other end's coroutine; a plain method goes on there, and its result is dropped.
        """
        lent: list[int] = []
        positional, named, fds = method.pack(arguments, keywords, partial(self._lend, lent))
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
            for each in lent:
                del self._lent[each]
        return method.unpack_result(value, received, self._borrow)

    def ask(
        self, target: str, name: str, method: Method, arguments: Sequence[Any], keywords: Mapping[str, Any]
    ) -> Future[Any]:
        """As `call`, from any thread."""
        return asyncio.run_coroutine_threadsafe(self.call(target, name, method, arguments, keywords), self._loop)

    def _lend(self, lent: list[int], value: Any, contract: type) -> tuple[int, dict[str, Any]]:
        number = next(self._numbers)
        methods = methods_of(contract)
        attributes = {name: getattr(value, name) for name in get_type_hints(contract)}
        if hasattr(contract, "__aiter__"):
            methods, value = {**methods, "__anext__": _NEXT}, _Readable(value)
        self._lent[number] = value, methods
        lent.append(number)
        return number, attributes

    def _borrow(self, value: Any, contract: type) -> Any:
        number, attributes = value
        return _Borrowed(self, f"#{number}", methods_of(contract), attributes)

    async def _find_lent(self, target: str, name: str) -> tuple[Callable[..., Awaitable[Any]], Method]:
        number = int(target[1:])
        if number not in self._lent and name == "aclose":
            return _nothing, _NEXT  # it was read to its end
        if number not in self._lent:
            raise NotFound("what was lent for a call is not to be had after it")
        value, methods = self._lent[number]
        function = getattr(value, name)
        if methods[name].plain:
            return partial(self._pool.run, function), methods[name]

        async def call(*arguments: Any, **keywords: Any) -> Any:
            over = name in ("__anext__", "aclose")
            try:
                result = await self._run(function(*arguments, **keywords))
                over = over and result is None
            finally:
                if over:
                    self._lent.pop(number, None)
            return result

        return call, methods[name]

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
            find = self._find_lent if target.startswith("#") else self._find
            function, method = await find(target, name)
            positional, named = method.unpack(arguments, keywords, fds, self._borrow)
            value, results = method.pack_result(await function(*positional, **named), partial(self._lend, []))
            self._send([_RESULT, number, value], results)
        except Exception as error:
            self._send([_ERROR, number, *_failure(error)])
        finally:
            close_all((*fds, *results))


class _Readable:
    """A lent object that is read: its pieces by a method of their own."""

    def __init__(self, value: Any) -> None:
        self._value = value
        self._pieces = aiter(value)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._value, name)

    async def __anext__(self) -> bytes | None:
        return await anext(self._pieces, None)


_NEXT = Method(_Readable.__anext__)


async def _nothing() -> None: ...


class _Borrowed:
    """Stands for what the other end lends: its plain methods block, from a thread; the others may be awaited on any loop."""

    def __init__(self, peer: Peer, target: str, methods: Mapping[str, Method], attributes: Mapping[str, Any]) -> None:
        self._peer = peer
        self._target = target
        self._methods = methods
        vars(self).update(attributes)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while piece := await self._asked("__anext__", _NEXT, (), {}):
            yield piece

    def __getattr__(self, name: str) -> Any:
        if name not in self._methods:
            raise AttributeError(f"{name} is not in the contract")
        method = self._methods[name]
        if method.plain:
            return lambda *given, **named: self._peer.ask(self._target, name, method, given, named).result()
        return lambda *given, **named: self._asked(name, method, given, named)

    async def _asked(self, name: str, method: Method, given: Sequence[Any], named: Mapping[str, Any]) -> Any:
        return await asyncio.wrap_future(self._peer.ask(self._target, name, method, given, named))


def _failure(error: Exception) -> list[str]:
    """An error as it travels."""
    if isinstance(error, LoadError):
        return ["LoadError", error.code, str(error), error.remedy]
    if isinstance(error, PluginSkipped):
        return ["PluginSkipped", error.reason, error.remedy]
    if isinstance(error, OSError):
        error = from_os_error(error, "a call from another process")
    if not isinstance(error, IntermodalError):
        return ["Internal", f"raised {type(error).__name__}: {error}"]
    return [type(error).__name__, error.message]


def _error(name: str, *texts: str) -> Exception:
    if name == "LoadError":
        return LoadError(*texts)
    return _KINDS.get(name, Internal)(*texts)


def _is_lent(hint: Any) -> bool:
    return isinstance(hint, type) and bool(getattr(hint, "_is_protocol", False))


def _convert(value: Any, hint: Any, what: str) -> Any:
    if hint is socket.socket or _is_lent(hint):
        return value
    try:
        return msgspec.convert(value, hint, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"{what} does not fit the contract: {error}") from None


def _swap(value: Any, hint: Any, change: Callable[[int], int], lend: Lend) -> Any:
    """`value` with each descriptor and each lent object in it changed; where they are, the hint says."""
    if _is_lent(hint):
        return lend(value, hint)
    if hint is socket.socket:
        return change(value.fileno() if isinstance(value, socket.socket) else value)
    if any(isinstance(meta, msgspec.Meta) and (meta.extra or {}).get("descriptor") for meta in get_args(hint)[1:]):
        return change(value)
    if get_origin(hint) is tuple and ... not in get_args(hint):
        return tuple(_swap(item, kind, change, lend) for item, kind in zip(value, get_args(hint), strict=False))
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
