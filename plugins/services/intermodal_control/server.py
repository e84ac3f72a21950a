"""The control server: takes calls, one a connection, and answers errors by meaning. See docs/control-protocol.md."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from intermodal_core.contracts.managers.images import Progress, Report
from intermodal_core.contracts.managers.store import Scope
from intermodal_core.errors import Cancelled, IntermodalError, Internal, InvalidArgument, from_os_error

from intermodal_control.connection import Connection

__all__ = ["Call", "Method", "Server"]

log = logging.getLogger("intermodal.control")

T = TypeVar("T")

#: Seconds between two lines of progress of one call.
PROGRESS_PAUSE = 0.05


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first line of a call."""

    method: str
    namespace: str = "default"
    params: msgspec.Raw = msgspec.Raw(b"{}")
    descriptors: int = 0


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a client may send while its call runs."""

    signal: int | None = None
    resize: tuple[int, int] | None = None
    close_stdin: bool = False
    reopen: bool = False


class Call:
    """What a method may do with its call. `cancel` says whether the client's closing, or a signal, ends the method."""

    def __init__(self, connection: Connection, request: Request, descriptors: list[int], cancel: bool) -> None:
        self._connection = connection
        self._params = request.params
        self.scope = Scope(request.namespace)
        self.descriptors = descriptors
        self.cancel = cancel
        self.lines: asyncio.Queue[Line | None] = asyncio.Queue()

    def params(self, into: type[T]) -> T:
        """The parameters, checked. Raises InvalidArgument."""
        try:
            return msgspec.json.decode(self._params, type=into)
        except msgspec.ValidationError as error:
            raise InvalidArgument(f"the call's params: {error}") from None

    async def event(self, event: Any, descriptors: Sequence[int] = ()) -> None:
        """Tell the client something while the call runs."""
        line = {"event": event, "descriptors": len(descriptors)} if descriptors else {"event": event}
        await self._connection.send(line, descriptors)

    @asynccontextmanager
    async def progress(self) -> AsyncIterator[Report]:
        """A function to report with, at once; of each thing the client gets the latest state, now and then."""
        waiting: dict[tuple[str, str], Progress] = {}
        wake = asyncio.Event()

        def report(progress: Progress) -> None:
            waiting[progress.action, progress.name] = progress
            wake.set()

        async def flush() -> None:
            while waiting:
                await self._connection.send({"progress": waiting.pop(next(iter(waiting)))})

        async def tell() -> None:
            while True:
                await wake.wait()
                wake.clear()
                await flush()
                await asyncio.sleep(PROGRESS_PAUSE)

        teller = asyncio.create_task(tell())
        try:
            yield report
        finally:
            teller.cancel()
            await asyncio.gather(teller, return_exceptions=True)
        await flush()

    async def read(self) -> None:
        """Take the client's further lines into `lines`, None at its end: its closing, or a signal while `cancel` holds.

        Raises InvalidArgument.
        """
        try:
            while (text := await self._connection.receive()) is not None:
                try:
                    line = msgspec.json.decode(text, type=Line)
                except msgspec.DecodeError as error:
                    raise InvalidArgument(f"a line that came while the call ran: {error}") from None
                if self.cancel and line.signal is not None:
                    return
                self.lines.put_nowait(line)
        finally:
            self.lines.put_nowait(None)


@dataclass(frozen=True, slots=True)
class Method:
    """A row of the method table; with `cancel` the client's closing ends it."""

    run: Callable[[Call], Awaitable[Any]]
    cancel: bool = False


class Server:
    """Serves `methods` on a unix socket. `busy` is entered while a call runs."""

    def __init__(self, methods: Mapping[str, Method], busy: Callable[[], AbstractContextManager[None]]) -> None:
        self._methods = methods
        self._busy = busy
        self._calls: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None
        self._address: Path | None = None

    def listen(self, address: Path, mode: int, owner: int, group: int) -> None:
        """Bind and serve; nobody can connect before mode, owner and group are right. Raises the error by meaning."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            address.unlink(missing_ok=True)
            sock.bind(str(address))
            os.chown(address, owner, group)
            os.chmod(address, mode)
            sock.listen(128)
        except OSError as error:
            sock.close()
            raise from_os_error(error, f"listening on {address}") from error
        sock.setblocking(False)
        self._address = address
        self._accepting = asyncio.create_task(self._accept(sock))

    async def close(self) -> None:
        """Take no more calls and end those that run; what they had begun is the managers' to finish or undo."""
        if self._accepting is None or self._address is None:
            return
        self._address.unlink(missing_ok=True)
        tasks = [self._accepting, *self._calls]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with sock:
            while True:
                try:
                    client, _ = await loop.sock_accept(sock)
                except OSError as error:  # out of descriptors: some call will end and free some
                    log.warning("accepting a call: %s", error)
                    await asyncio.sleep(0.1)
                    continue
                task = asyncio.create_task(self._serve(Connection(client)))
                self._calls.add(task)
                task.add_done_callback(self._calls.discard)

    async def _serve(self, connection: Connection) -> None:
        with self._busy():
            try:
                line = await connection.receive()
                if line is not None:
                    await connection.send({"result": await self._answer(connection, line)})
            except IntermodalError as error:
                await _fail(connection, error)
            except ConnectionError:
                log.debug("a client went before its answer")
            except Exception as error:
                log.exception("a control call")
                await _fail(connection, Internal(f"the call raised {type(error).__name__}: {error}"))
            finally:
                connection.close()

    async def _answer(self, connection: Connection, line: bytes) -> Any:
        try:
            request = msgspec.json.decode(line, type=Request)
        except msgspec.DecodeError as error:
            raise InvalidArgument(f"the call's first line: {error}") from None
        method = self._methods.get(request.method)
        if method is None:
            raise InvalidArgument(
                f"there is no method {request.method!r}; there are {', '.join(sorted(self._methods))}"
            )
        descriptors = connection.take(request.descriptors)
        call = Call(connection, request, descriptors, method.cancel)
        working = asyncio.ensure_future(method.run(call))
        reading = asyncio.create_task(call.read())
        try:
            await asyncio.wait({working, reading}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done() and not working.done() and (call.cancel or reading.exception() is not None):
                working.cancel()
            try:
                return await working
            except asyncio.CancelledError:
                if not reading.done():
                    raise
                wrong = reading.exception()
                raise wrong or Cancelled("the client gave the call up") from None
        finally:
            for task in (working, reading):
                task.cancel()
            await asyncio.gather(working, reading, return_exceptions=True)
            for descriptor in descriptors:
                os.close(descriptor)


async def _fail(connection: Connection, error: IntermodalError) -> None:
    answer = {"code": error.code, "reason": error.reason, "message": error.message}
    try:
        await connection.send({"error": answer})
    except ConnectionError:
        log.debug("a client went before its answer: %s", error)
