"""The standard streams of one process: FIFOs in a private directory, and the bytes on their way.

How no byte is lost: the output FIFOs have a reader before the daemon hears of them, and a writer of ours until
it has opened its own (`connected`), so that an end of file is always the process's. For stdin see `_stdin`.
"""

import os
import selectors
import shutil
import tempfile
import threading
from collections import deque
from concurrent.futures import Future
from functools import partial
from typing import Final, Literal, NamedTuple

from intermodal_core.errors import FailedPrecondition, from_os_error

from intermodal._reactor import Reactor
from intermodal._stdin import CHUNK, StdinWriter, resolve

PATIENCE: Final = 10.0
"""Seconds for the daemon to open the stdin FIFO after it said that the process runs."""


class Chunk(NamedTuple):
    """Some bytes that a process wrote, and where."""

    stream: Literal["stdout", "stderr"]
    data: bytes


class Stdio:
    """Three FIFOs (two with a terminal, which has no stderr; stdin only where asked for).

    `limit` bytes are read ahead of who takes them, None for all there are; `log` is a file that gets the output
    instead. `finished` is done once every output has ended. Raises what `from_os_error` makes of a failed mkfifo.
    """

    def __init__(
        self,
        reactor: Reactor,
        base: str,
        *,
        stdin: bool,
        terminal: bool,
        limit: int | None,
        log: str | None = None,
    ) -> None:
        self.finished: Future[None] = Future()
        self._reactor, self._limit = reactor, limit
        self._lock = threading.Lock()
        self._chunks: deque[Chunk] = deque()
        self._size = 0
        self._waiter: Future[Chunk | None] | None = None
        self._paused: list[tuple[int, Literal["stdout", "stderr"]]] = []
        self._closed = False
        self._log = -1
        self._readers: list[int] = []
        self._keepers: list[int] = []
        try:
            self.directory = tempfile.mkdtemp(prefix="io-", dir=base)
            self.stdin_path = self._fifo("stdin") if stdin else ""
            self._stdin = StdinWriter(reactor, self.stdin_path) if stdin else None
            self.stdout_path = self._fifo("stdout")
            self.stderr_path = "" if terminal else self._fifo("stderr")
            if log is not None:
                self._log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._open_outputs()
        except OSError as error:
            self._closed = True
            self._release()
            raise from_os_error(error, f"make FIFOs for a process's standard streams in {base}") from error

    def connected(self) -> None:
        """The daemon answered that it made the process, so it holds its ends: drop ours, and begin with stdin."""
        self._reactor.call(self._on_connected)

    def write(self, data: bytes) -> "Future[None]":
        """Queue `data` for the process; done once it is in the FIFO. Fails with FailedPrecondition once input is over."""
        future: Future[None] = Future()
        self._reactor.call(lambda: self._on_write(data, future))
        return future

    def end_input(self) -> "Future[None]":
        """Close our end of stdin once all that was queued is written; done then, whatever became of the data."""
        future: Future[None] = Future()
        self._reactor.call(lambda: self._on_end_input(future))
        return future

    def read(self) -> "Future[Chunk | None]":
        """The next chunk, or None at the end of every output. One reader at a time."""
        future: Future[Chunk | None] = Future()
        self._reactor.call(lambda: self._on_read(future))
        return future

    def read_all(self) -> None:
        """From now on read whatever comes, however much: for who takes it at the end."""
        self._reactor.call(self._on_read_all)

    def take(self) -> tuple[bytes, bytes]:
        """All that was read and not taken: stdout and stderr."""
        with self._lock:
            chunks, self._size = list(self._chunks), 0
            self._chunks.clear()
        return (
            b"".join(chunk.data for chunk in chunks if chunk.stream == "stdout"),
            b"".join(chunk.data for chunk in chunks if chunk.stream == "stderr"),
        )

    def close(self) -> None:
        """Let go of everything and remove the FIFOs, at once; what was read can still be taken. May be called twice."""
        done: Future[None] = Future()
        try:
            self._reactor.call(lambda: self._on_close(done))
        except FailedPrecondition:
            self._on_close(done)  # the thread is over or ends: nobody else touches this
            return
        # To wait is short, and a process that ends now has nothing of it left on the disk.
        done.result(PATIENCE)

    # On the reactor's thread from here on.

    def _on_connected(self) -> None:
        if self._closed:
            return
        for keeper in self._keepers:
            os.close(keeper)
        self._keepers.clear()
        if self._stdin is not None:
            self._stdin.open(PATIENCE)

    def _on_write(self, data: bytes, future: "Future[None]") -> None:
        if self._stdin is None:
            future.set_exception(FailedPrecondition("The process has no standard input"))
        else:
            self._stdin.write(data, future)

    def _on_end_input(self, future: "Future[None]") -> None:
        if self._stdin is None:
            resolve(future)
        else:
            self._stdin.end(future)

    def _watch_output(self, fd: int, stream: Literal["stdout", "stderr"]) -> None:
        if not self._closed:
            self._reactor.watch(fd, selectors.EVENT_READ, partial(self._on_output, fd, stream))

    def _on_output(self, fd: int, stream: Literal["stdout", "stderr"]) -> None:
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return
        if not data:
            self._end_output(fd)
        elif self._log >= 0:
            self._append_to_log(data)
        else:
            with self._lock:
                self._chunks.append(Chunk(stream, data))
                self._size += len(data)
                full = self._limit is not None and self._size >= self._limit
            if full:
                self._reactor.unwatch(fd)
                self._paused.append((fd, stream))
            self._serve_waiter()

    def _append_to_log(self, data: bytes) -> None:
        try:
            os.write(self._log, data)
        except OSError:
            pass  # a full disk must not stop the process; what did not fit is lost, as with any log

    def _end_output(self, fd: int) -> None:
        self._reactor.unwatch(fd)
        os.close(fd)
        self._readers.remove(fd)
        if not self._readers:
            if self._stdin is not None:
                self._stdin.close("The process has ended")
            resolve(self.finished)
            self._serve_waiter()

    def _on_read_all(self) -> None:
        self._limit = None
        while self._paused:
            self._watch_output(*self._paused.pop())

    def _on_read(self, future: "Future[Chunk | None]") -> None:
        if self._waiter is not None and not self._waiter.done():
            future.set_exception(FailedPrecondition("Another reader waits for this process's output"))
            return
        self._waiter = future
        self._serve_waiter()

    def _serve_waiter(self) -> None:
        if self._waiter is None:
            return
        with self._lock:
            if not self._chunks and self._readers and not self._closed:
                return
            waiter, self._waiter = self._waiter, None
            if not waiter.set_running_or_notify_cancel():
                return
            chunk = self._chunks.popleft() if self._chunks else None
            self._size -= len(chunk.data) if chunk else 0
            resume = self._paused if self._limit is None or self._size < self._limit else []
        waiter.set_result(chunk)
        while resume:
            self._watch_output(*resume.pop())

    def _on_close(self, done: "Future[None]") -> None:
        if not self._closed:
            self._let_go()
        done.set_result(None)

    def _let_go(self) -> None:
        self._closed = True
        for fd in self._readers:
            self._reactor.unwatch(fd)
        if self._stdin is not None:
            self._stdin.close("The streams are closed")
        self._release()
        resolve(self.finished)
        self._serve_waiter()

    # On either thread.

    def _fifo(self, name: str) -> str:
        path = os.path.join(self.directory, name)
        os.mkfifo(path, 0o600)
        return path

    def _open_outputs(self) -> None:
        streams: list[tuple[Literal["stdout", "stderr"], str]] = [("stdout", self.stdout_path)]
        if self.stderr_path:
            streams.append(("stderr", self.stderr_path))
        for stream, path in streams:
            reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            self._readers.append(reader)
            self._keepers.append(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
            self._reactor.call(partial(self._watch_output, reader, stream))

    def _release(self) -> None:
        for fd in (*self._readers, *self._keepers, self._log):
            if fd >= 0:
                os.close(fd)
        self._readers.clear()
        self._keepers.clear()
        self._log = -1
        shutil.rmtree(getattr(self, "directory", ""), ignore_errors=True)
