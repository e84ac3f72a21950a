"""One thread that moves bytes between FIFOs and memory, for every process that a client is attached to.

It starts with the first use. All callbacks run on it, so that what they touch needs no lock among themselves.
"""

import heapq
import itertools
import logging
import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable

from intermodal_core.errors import FailedPrecondition

Callback = Callable[[], None]


class Reactor:
    """Watches descriptors and timers; `call` hands it work from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._wake = -1
        self._calls: deque[Callback] = deque()
        self._timers: list[tuple[float, int, Callback]] = []
        self._order = itertools.count()
        self._selector: selectors.BaseSelector

    def call(self, function: Callback) -> None:
        """Run `function` on the reactor's thread, soon. Raises FailedPrecondition once it is closed."""
        with self._lock:
            if self._closed:
                raise FailedPrecondition("The client is closed; make a new one")
            if self._thread is None:
                self._start()
            self._calls.append(function)
            os.eventfd_write(self._wake, 1)

    def watch(self, fd: int, events: int, ready: Callback) -> None:
        """Call `ready` whenever `fd` is ready for `events` (selectors.EVENT_...). On the reactor's thread only."""
        self._selector.register(fd, events, ready)

    def unwatch(self, fd: int) -> None:
        """Watch `fd` no longer; harmless where it is not watched. On the reactor's thread only."""
        try:
            self._selector.unregister(fd)
        except KeyError:
            pass

    def later(self, seconds: float, function: Callback) -> None:
        """Run `function` after `seconds`. On the reactor's thread only."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), function))

    def close(self) -> None:
        """End the thread after the calls that it was already handed."""
        with self._lock:
            already, self._closed = self._closed, True
            thread = self._thread
            if thread is None or already:
                return
            os.eventfd_write(self._wake, 1)
        if thread is not threading.current_thread():
            thread.join()

    def _start(self) -> None:
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake, selectors.EVENT_READ, self._drain_wake)
        self._thread = threading.Thread(target=self._run, name="intermodal-stdio", daemon=True)
        self._thread.start()

    def _drain_wake(self) -> None:
        os.eventfd_read(self._wake)

    def _run(self) -> None:
        while True:
            while self._calls:
                self._invoke(self._calls.popleft())
            with self._lock:
                if self._closed and not self._calls:
                    break
            for key, _ in self._selector.select(self._until_next_timer()):
                self._invoke(key.data)
            now = time.monotonic()
            while self._timers and self._timers[0][0] <= now:
                self._invoke(heapq.heappop(self._timers)[2])
        self._selector.close()
        os.close(self._wake)

    @staticmethod
    def _invoke(function: Callback) -> None:
        """Call it; what it raises is a defect, which must not stop every other process's streams."""
        try:
            function()
        except Exception:
            logging.getLogger("intermodal").exception("A stream's callback failed")

    def _until_next_timer(self) -> float | None:
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None
