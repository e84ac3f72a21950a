"""Starts processes for the daemon, which must not fork: it has threads, and they hold locks.

The `Spawner` keeps one process, `intermodal_core.forkserver`, made by posix_spawn, and asks it to fork functions of modules
that were preloaded there and to execute commands. That process may be killed at any time: calls that it was working
on raise Unavailable, it is started again, what it had started lives on.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from intermodal_core.child import UNKNOWN, Child, Completed, Pipes, kill_group, uncancellable
from intermodal_core.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    IntermodalError,
    InvalidArgument,
    Unavailable,
    by_code,
    from_os_error,
)
from intermodal_core.forkserver import receive, send

__all__ = ["UNKNOWN", "Child", "Completed", "Spawner", "interpreter"]

_MAX_FDS = 250  # the kernel allows 253 a message, one of which may carry the message itself
_WINDOW = 16  # requests under way at once; more would fill the socket's buffer, and then send() would block the loop
_REPLAY = 10.0  # seconds for a module to be imported again
_DEATHS = 3
_KILLS = 12  # the same for deaths by a SIGKILL that is not ours: an import may bring the kernel to it, or anybody
_STEADY = 10.0  # seconds after which a spawner that dies is no longer counted as one that dies again


class _Request:
    def __init__(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        self.message = message
        self.fds = fds
        self.answer: Future[Child | None] = uncancellable()
        self.abandoned = False  # under the spawner's lock
        self.replay = False  # a preload for a new process; nobody waits for it

    @property
    def exclusive(self) -> bool:
        """A preload travels alone: when it hangs or kills, nothing else was under way."""
        return bool(self.message["op"] == "preload")


class _Process:
    """One spawner process, its socket and the thread that reads it."""

    def __init__(self, python: str) -> None:
        self.started = time.monotonic()
        self.sent: dict[int, _Request] = {}
        self.children: dict[int, Child] = {}
        self.retired = False
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            for sock in (self.sock, theirs):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 212992)
            argv = interpreter("from intermodal_core.forkserver import main; main(3)", python)
            self.pid = os.posix_spawn(
                python,
                argv,
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), 3)],
                setsigmask=(),
                setsigdef=(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD),
            )

    def replaying(self) -> str | None:
        """The module that is being preloaded again."""
        return next((request.message["module"] for request in list(self.sent.values()) if request.replay), None)

    def hang_up(self) -> None:
        """Ends the process, which sees EOF after it answered, and then the thread, which sees it after the answers."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)


class Spawner:
    """The one way to a new process. Its methods may be called from any thread; the async ones from a loop.

    `python` is the interpreter; the process sees the same packages as this one: same flags, environment and sys.path.
    """

    def __init__(self, python: str = sys.executable, log: logging.Logger | None = None) -> None:
        self._python = python
        self._log = log or logging.getLogger("intermodal.spawner")
        self._lock = threading.RLock()  # of all below; never held while waiting
        self._preloading = threading.Lock()  # one preload at a time
        self._numbers = itertools.count(1)
        self._queue: collections.deque[_Request] = collections.deque()
        self._modules: list[str] = []
        self._process: _Process | None = None
        self._retired: set[_Process] = set()
        self._closed = threading.Event()
        self._delay = 0.0
        self._deaths: tuple[str | None, int] = (None, 0)
        with self._lock:
            self._start()

    @property
    def pid(self) -> int:
        """The process's id; 0 while there is none."""
        process = self._process
        return process.pid if process else 0

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that are preloaded, in order."""
        return tuple(self._modules)

    def preload(self, module: str, deadline: float = 10.0) -> None:
        """Import `module` in the spawner, for functions of it to be forked. Blocking; idempotent.

        Raises FailedPrecondition, naming the module and why, when the import raises, does not finish within `deadline`
        seconds, leaves a thread running or ends the spawner; then the spawner is replaced by one without the module.
        Raises Unavailable when there was no spawner to try it in.
        """
        with self._preloading:
            if module in self._modules:
                return
            request = _preload_request(module, deadline)
            self._submit(request)
            try:
                request.answer.result(deadline)
            except TimeoutError:
                if not self._kill_preloading(request):
                    raise Unavailable(f"{module} was not preloaded: the spawner is not up yet; try again") from None
                raise FailedPrecondition(f"{module} cannot be preloaded: not imported within {deadline} s") from None
            except Unavailable as error:
                if self._closed.is_set():
                    raise
                raise FailedPrecondition(f"{module} cannot be preloaded: its import ended the spawner") from error

    def fork(
        self, target: str, args: Sequence[Any], fds: Sequence[int] = (), *, deadline: float = 10.0, session: bool = True
    ) -> Child:
        """Run the function `target` ("package.module:function") of a preloaded module in a process of its own.

        There it is called as `function(args, fds)`: `args` as JSON gives it back, `fds` the same descriptors under other
        numbers, the only ones open but 0 (/dev/null), 1 and 2 (the daemon's standard error). Signals are at their
        defaults, the directory is /, with `session` it leads a session; nothing can be imported that was not preloaded.
        What it returns is the exit status (None: 0); an exception goes to standard error in one line, status 70.

        Returns once the process is there. `fds` stay the caller's. Raises FailedPrecondition when the module was not
        preloaded, InvalidArgument when it has no such function, Unavailable when the spawner ended meanwhile (whether
        the child is there is not known), DeadlineExceeded after `deadline` seconds (a child that comes later is killed).
        """
        return self._call(self._fork_request(target, args, fds, session), deadline)

    async def fork_async(
        self, target: str, args: Sequence[Any], fds: Sequence[int] = (), *, deadline: float = 10.0, session: bool = True
    ) -> Child:
        """As `fork`; when cancelled, a child that comes later is killed."""
        return await self._call_async(self._fork_request(target, args, fds, session), deadline)

    def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        fds: Mapping[int, int] | None = None,
        deadline: float = 10.0,
        session: bool = True,
    ) -> Child:
        """Execute a command, found by `env`'s PATH. `env` None: the daemon's environment.

        `fds` maps the command's descriptor numbers to descriptors of the caller's; others are as with `fork`.
        Raises NotFound or PermissionDenied when it cannot be executed, and else as `fork`.
        """
        return self._call(self._exec_request(argv, env, cwd, fds or {}, session), deadline)

    async def spawn_async(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        fds: Mapping[int, int] | None = None,
        deadline: float = 10.0,
        session: bool = True,
    ) -> Child:
        """As `spawn`; when cancelled, a child that comes later is killed."""
        return await self._call_async(self._exec_request(argv, env, cwd, fds or {}, session), deadline)

    def run(
        self,
        argv: Sequence[str],
        input: bytes = b"",
        timeout: float = 30.0,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
    ) -> Completed:
        """Execute a command to its end; output that descendants write afterwards is not waited for. Not on a loop.

        Raises DeadlineExceeded after `timeout` seconds and ResourceExhausted past 16 MiB of output, having killed its
        process group, and else as `spawn`.
        """
        return asyncio.run(self.run_async(argv, input, timeout, env=env, cwd=cwd))

    async def run_async(
        self,
        argv: Sequence[str],
        input: bytes = b"",
        timeout: float = 30.0,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
    ) -> Completed:
        """As `run`; the process group is killed when this is cancelled."""
        try:
            async with asyncio.timeout(timeout):
                with Pipes(input) as pipes:
                    child = await self.spawn_async(argv, env=env, cwd=cwd, fds=pipes.theirs, deadline=timeout)
                    try:
                        return await pipes.follow(child)
                    except BaseException:
                        kill_group(child)
                        raise
                    finally:
                        child.close()
        except TimeoutError:
            raise DeadlineExceeded(f"{argv[0]} has not ended within {timeout} s and was killed") from None

    def close(self) -> None:
        """End the spawner once it has answered what it was asked; its children live on. Idempotent.

        Later calls, and those that were not sent yet, raise Unavailable.
        """
        with self._lock:
            self._closed.set()
            processes = [*self._retired, *([self._process] if self._process else [])]
            self._fail(self._queue)
            self._queue.clear()
        for process in processes:
            process.hang_up()

    # The calls: queued, sent while fewer than _WINDOW are under way, answered by the reading thread.

    def _fork_request(self, target: str, args: Sequence[Any], fds: Sequence[int], session: bool) -> _Request:
        if not target.partition(":")[2]:
            raise InvalidArgument(f"{target!r} names no function; write it as package.module:function")
        message = {"op": "fork", "target": target, "args": list(args), "session": session}
        return _Request(message, _few(fds))

    def _exec_request(
        self, argv: Sequence[str], env: Mapping[str, str] | None, cwd: str, fds: Mapping[int, int], session: bool
    ) -> _Request:
        if not argv or not argv[0]:
            raise InvalidArgument("a command to execute needs a name")
        message = {"op": "execute", "argv": list(argv), "cwd": cwd, "targets": list(fds), "session": session}
        message["env"] = None if env is None else dict(env)
        return _Request(message, _few(tuple(fds.values())))

    def _call(self, request: _Request, deadline: float) -> Child:
        self._submit(request)
        try:
            child = request.answer.result(deadline)
        except TimeoutError:
            child = self._abandon(request, f"the spawner started nothing within {deadline} s")
        assert child is not None
        return child

    async def _call_async(self, request: _Request, deadline: float) -> Child:
        self._submit(request)
        try:
            async with asyncio.timeout(deadline):
                child = await asyncio.wrap_future(request.answer)
        except TimeoutError:
            child = self._abandon(request, f"the spawner started nothing within {deadline} s")
        except asyncio.CancelledError:
            with contextlib.suppress(IntermodalError):
                _discard(self._abandon(request, "cancelled"))
            raise
        assert child is not None
        return child

    def _abandon(self, request: _Request, why: str) -> Child | None:
        """The answer, should it have come this instant; else DeadlineExceeded, and nobody waits for it any more."""
        with self._lock:
            if request.answer.done():
                return request.answer.result()
            request.abandoned = True
        raise DeadlineExceeded(why)

    def _submit(self, request: _Request) -> None:
        with self._lock:
            if self._closed.is_set():
                raise Unavailable("the spawner is closed")
            self._queue.append(request)
            self._pump()

    def _pump(self) -> None:
        process = self._process
        if process is None:
            return
        while self._queue and len(process.sent) < _WINDOW and not any(r.exclusive for r in process.sent.values()):
            request = self._queue.popleft()
            if request.abandoned:
                continue
            number = next(self._numbers)
            process.sent[number] = request
            try:
                send(process.sock, {**request.message, "id": number}, request.fds)
            except (BrokenPipeError, ConnectionResetError):
                return  # the reading thread sees it too, and fails what was sent
            except (OSError, TypeError, ValueError) as error:  # a closed descriptor; what JSON cannot say
                del process.sent[number]
                request.answer.set_exception(InvalidArgument(f"cannot be sent to the spawner: {error}"))

    def _fail(self, requests: Iterable[_Request]) -> None:
        for request in requests:
            request.answer.set_exception(Unavailable("the spawner ended before it answered; try again"))

    def _kill_preloading(self, request: _Request) -> bool:
        """End the process in which that import hangs; False when it was never sent."""
        with self._lock:
            request.abandoned = True
            if self._process is None or request not in self._process.sent.values():
                return False
            os.kill(self._process.pid, signal.SIGKILL)
            return True

    # The process: one thread reads what it says and starts the next one when it ends.

    def _start(self) -> None:
        self._process = process = _Process(self._python)
        unsent = [request for request in self._queue if not request.replay]
        self._queue = collections.deque(_preload_request(module, _REPLAY, replay=True) for module in self._modules)
        self._queue.extend(unsent)
        threading.Thread(target=self._read, args=(process,), name="spawner", daemon=True).start()
        self._pump()

    def _read(self, process: _Process) -> None:
        hung = False
        try:
            poll = select.poll()
            poll.register(process.sock, select.POLLIN)
            while True:
                if not poll.poll(None if (replayed := process.replaying()) is None else _REPLAY * 1000):
                    self._log.error("preloading %s again takes more than %d s", replayed, _REPLAY)
                    hung = True
                    break
                if (received := receive(process.sock)) is None:
                    break
                with self._lock:
                    self._heard(process, *received)
                    if process.retired and not process.children:
                        process.hang_up()
        except OSError as error:
            self._log.error("the spawner's socket broke: %s", error)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1])
        with self._lock:
            self._retired.discard(process)
            current = self._process is process
            if current:
                self._process = None
            process.sock.close()
            self._fail(process.sent.values())
            killed = status == -signal.SIGKILL and not hung
            self._note_deaths(process.replaying(), _KILLS if killed else _DEATHS)
            for child in process.children.values():
                child._end.set_result(None)
        if current and not self._closed.is_set():
            self._log.warning("the spawner (pid %d) ended with status %d and is started again", process.pid, status)
            self._restart(time.monotonic() - process.started)

    def _note_deaths(self, module: str | None, most: int) -> None:
        """A module that ends one spawner after the other is given up, though it was good once."""
        self._deaths = (module, self._deaths[1] + 1) if module == self._deaths[0] else (module, 1)
        if module in self._modules and self._deaths[1] >= most:
            self._modules.remove(module)
            self._log.error("%s is preloaded no more: the spawner ended %d times importing it", module, most)

    def _restart(self, lived: float) -> None:
        if lived > _STEADY:
            self._delay = 0.0
        while not self._closed.wait(self._delay):
            self._delay = min(max(0.05, self._delay * 2), 5.0)
            with self._lock:
                if self._closed.is_set():
                    return
                try:
                    self._start()
                    return
                except OSError as error:
                    self._log.error("the spawner cannot be started, trying again in %.2f s: %s", self._delay, error)

    def _heard(self, process: _Process, message: dict[str, Any], fds: list[int]) -> None:
        if "ended" in message:
            child = process.children.pop(message["ended"], None)
            if child is not None:
                child._end.set_result(message["status"])
            return
        request = process.sent.pop(message["id"])
        error = self._error_of(request, message)
        if "pid" in message:
            child = process.children[message["pid"]] = Child(message["pid"], fds[0])
            if request.abandoned:
                _discard(child)
            else:
                request.answer.set_result(child)
        elif error is None:
            if request.message["module"] not in self._modules:
                self._modules.append(request.message["module"])
            request.answer.set_result(None)
        else:
            if request.exclusive:
                self._replace(process, request.message["module"], message["error"])
            request.answer.set_exception(error)
        self._pump()

    def _error_of(self, request: _Request, message: dict[str, Any]) -> IntermodalError | None:
        if "error" not in message:
            return None
        if "errno" in message:
            return from_os_error(OSError(message["errno"], message["error"]), _title(request.message))
        if request.exclusive:
            return FailedPrecondition(f"{request.message['module']} cannot be preloaded: {message['error']}")
        return by_code(message["code"], f"cannot fork {request.message['target']}: {message['error']}")

    def _replace(self, process: _Process, module: str, why: str) -> None:
        """An import spoiled that process: it stays only to tell how its children end."""
        if module in self._modules:
            self._modules.remove(module)
            self._log.error("%s can no longer be preloaded: %s", module, why)
        if self._process is process:
            process.retired = True
            self._retired.add(process)
            self._start()


def _preload_request(module: str, deadline: float, *, replay: bool = False) -> _Request:
    path = [os.path.abspath(folder) for folder in sys.path]
    request = _Request({"op": "preload", "module": module, "path": path, "deadline": deadline})
    request.replay = replay
    return request


def _few(fds: Sequence[int]) -> Sequence[int]:
    if len(fds) > _MAX_FDS:
        raise InvalidArgument(f"{len(fds)} descriptors cannot be passed to a child, {_MAX_FDS} can")
    return fds


def _discard(child: Child | None) -> None:
    if child is not None:
        kill_group(child)


def _title(message: dict[str, Any]) -> str:
    return (
        f"execute {message['argv'][0]}"
        if message["op"] == "execute"
        else f"{message['op']} {message.get('target', '')}"
    )


def interpreter(code: str, python: str = sys.executable) -> list[str]:
    """A command that runs `code` in Python as it is here: with the flags that decide which packages are seen."""
    return [python, *_flags(), "-c", code]


def _flags() -> Iterator[str]:
    yield "-P"  # no script's directory on sys.path
    named = {"isolated": "-I", "ignore_environment": "-E", "no_user_site": "-s", "no_site": "-S"}
    yield from (flag for name, flag in named.items() if getattr(sys.flags, name))
    if sys.flags.dont_write_bytecode:
        yield "-B"
