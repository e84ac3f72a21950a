"""The writing end of a process's standard input.

The FIFO is opened only once somebody reads it, since what is written into one without readers, and its end, are lost
when the last writer goes. Until then data waits in memory. All methods are for the reactor's thread.
"""

import errno
import os
import selectors
import time
from collections import deque
from concurrent.futures import Future
from functools import partial
from typing import Final

from intermodal_core.errors import FailedPrecondition, IntermodalError, Unavailable

from intermodal._reactor import Reactor

CHUNK: Final = 1 << 16
_RETRY: Final = 0.002


class StdinWriter:
    """Writes to the FIFO at `path` what it is given, in order, without ever blocking."""

    def __init__(self, reactor: Reactor, path: str) -> None:
        self._reactor, self._path = reactor, path
        self._fd = -1
        self._queue: deque[tuple[memoryview, Future[None]]] = deque()
        self._end: Future[None] | None = None
        self._over: IntermodalError | None = None

    def open(self, patience: float) -> None:
        """Open it as soon as it has a reader; input is over where none comes in `patience` seconds."""
        self._try_to_open(time.monotonic() + patience)

    def write(self, data: bytes, future: "Future[None]") -> None:
        """Queue `data`; `future` is done once it is in the FIFO, or fails where input is over before."""
        if self._over is not None or self._end is not None:
            fail(future, self._over or FailedPrecondition("The process's input was ended"))
            return
        self._queue.append((memoryview(data), future))
        self._pump()

    def end(self, future: "Future[None]") -> None:
        """Close it once the queue is written; `future` is done then, whatever became of the data."""
        if self._over is not None or self._end is not None:
            resolve(future)
            return
        self._end = future
        self._pump()

    def close(self, why: str) -> None:
        """Close it now; what is queued fails with FailedPrecondition."""
        self._finish(FailedPrecondition(why))

    def _try_to_open(self, deadline: float) -> None:
        if self._over is not None:
            return
        try:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.ENXIO and time.monotonic() < deadline:
                self._reactor.later(_RETRY, partial(self._try_to_open, deadline))
            else:
                self._finish(Unavailable(f"Nobody reads the standard input {self._path}: {error.strerror}"))
            return
        self._pump()

    def _pump(self) -> None:
        """Write what the FIFO takes; watch it only while there is more."""
        if self._fd < 0:
            return
        self._reactor.unwatch(self._fd)
        while self._queue:
            data, future = self._queue[0]
            try:
                written = os.write(self._fd, data[:CHUNK])
            except BlockingIOError:
                self._reactor.watch(self._fd, selectors.EVENT_WRITE, self._pump)
                return
            except OSError:
                self._finish(FailedPrecondition("The process closed its standard input"))
                return
            if written < len(data):
                self._queue[0] = (data[written:], future)
            else:
                self._queue.popleft()
                resolve(future)
        if self._end is not None:
            self._finish(FailedPrecondition("The process's input was ended"))

    def _finish(self, why: IntermodalError) -> None:
        if self._over is not None:
            return
        self._over = why
        if self._fd >= 0:
            self._reactor.unwatch(self._fd)
            os.close(self._fd)
            self._fd = -1
        while self._queue:
            fail(self._queue.popleft()[1], why)
        if self._end is not None:
            resolve(self._end)


def resolve(future: "Future[None]") -> None:
    """Mark it done, unless it is or was given up."""
    if not future.done() and future.set_running_or_notify_cancel():
        future.set_result(None)


def fail(future: "Future[None]", error: IntermodalError) -> None:
    """Let it fail, unless it was given up."""
    if future.set_running_or_notify_cancel():
        future.set_exception(error)
