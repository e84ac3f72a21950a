"""A process that the spawner started, and the pipes of a command that is run to its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import time
from concurrent.futures import Future
from typing import Any, Final, NamedTuple

from intermodal_core.errors import DeadlineExceeded, ResourceExhausted

__all__ = ["UNKNOWN", "Child", "Completed", "Pipes", "kill_group", "uncancellable"]

#: The status of a child that ended after its spawner had: nobody was there to be told. (-1 would be SIGHUP.)
UNKNOWN: Final = -256

_MAX_OUTPUT = 16 << 20


class Completed(NamedTuple):
    """What `run` gives: exit status (negative: the signal), and all output."""

    exit: int
    stdout: bytes
    stderr: bytes


class Child:
    """A process that the spawner started. `pidfd` is closed by `close()` or when the object is dropped."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self._end: Future[int | None] = uncancellable()  # None: the spawner ended first, ask the pidfd

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, negative for the signal that ended it, `UNKNOWN` where the spawner ended before it did.

        Raises DeadlineExceeded after `timeout` seconds; the child is left alone.
        """
        until = None if timeout is None else time.monotonic() + timeout
        try:
            status = self._end.result(timeout)
        except TimeoutError:
            raise self._late(timeout) from None
        if status is not None:
            return status
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        if not poll.poll(None if until is None else max(0.0, until - time.monotonic()) * 1000):
            raise self._late(timeout)
        return UNKNOWN

    async def wait_async(self) -> int:
        """As `wait`, without a limit; cancelling it leaves the child alone."""
        status = await asyncio.wrap_future(self._end)
        if status is not None:
            return status
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        fd = os.dup(self.pidfd)  # a descriptor of this call's own: a loop has one reader a descriptor
        loop.add_reader(fd, _settle, ended)
        try:
            await ended
        finally:
            loop.remove_reader(fd)
            os.close(fd)
        return UNKNOWN

    def kill(self, number: int = signal.SIGKILL) -> bool:
        """Send a signal, to this process and no other; whether it was still there."""
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            return False
        return True

    def close(self) -> None:
        """Close the pidfd; the process is left alone. Idempotent."""
        pidfd, self.pidfd = self.pidfd, -1
        if pidfd >= 0:
            os.close(pidfd)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Child(pid={self.pid})"

    def _late(self, timeout: float | None) -> DeadlineExceeded:
        return DeadlineExceeded(f"process {self.pid} has not ended within {timeout} s")


class Pipes:
    """The standard streams of a command: input from memory, output and errors into it."""

    def __init__(self, input: bytes) -> None:
        stdin = os.memfd_create("stdin", os.MFD_CLOEXEC)
        with open(stdin, "wb", closefd=False) as file:
            file.write(input)
        os.lseek(stdin, 0, os.SEEK_SET)
        (stdout, out), (stderr, err) = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
        self.theirs = {0: stdin, 1: out, 2: err}
        self._taken = {stdout: bytearray(), stderr: bytearray()}

    async def follow(self, child: Child) -> Completed:
        """All output, once the command has ended. Raises ResourceExhausted when it writes too much, having killed it."""
        while self.theirs:  # so that the pipes end with the command
            os.close(self.theirs.popitem()[1])
        loop = asyncio.get_running_loop()
        for fd in self._taken:
            os.set_blocking(fd, False)
            loop.add_reader(fd, self._take, fd, child)
        try:
            status = await child.wait_async()
            for fd in self._taken:
                while self._take(fd, child):
                    pass
        finally:
            for fd in self._taken:
                loop.remove_reader(fd)
        if self._too_much():
            raise ResourceExhausted(f"a command wrote more than {_MAX_OUTPUT >> 20} MiB of output and was killed")
        return Completed(status, *map(bytes, self._taken.values()))

    def _take(self, fd: int, child: Child) -> bool:
        """Read once; whether there may be more."""
        if self._too_much():
            kill_group(child)
            return False
        try:
            data = os.read(fd, 1 << 16)
        except BlockingIOError:
            return False
        if not data:
            asyncio.get_running_loop().remove_reader(fd)
        self._taken[fd] += data
        return bool(data)

    def _too_much(self) -> bool:
        return sum(map(len, self._taken.values())) > _MAX_OUTPUT

    def __enter__(self) -> Pipes:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in (*self.theirs.values(), *self._taken):
            os.close(fd)


def uncancellable() -> Future[Any]:
    """A future that awaiting tasks cannot cancel for the others."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def kill_group(child: Child) -> None:
    """The session that the child leads; its id is its own as long as it was not reaped, or members remain."""
    if child.kill(0):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    child.kill()
