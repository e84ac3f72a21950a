"""Calls into plugins: each on the plugin's own threads, timed, with a deadline, its errors put into the closed set.

A thread that outlives its call's deadline stays busy; the outcome of that call is unknown. When every thread of a
plugin is held so, its breaker is open (see `Pool`).
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar

from intermodal_core.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    IntermodalError,
    Internal,
    Unavailable,
    from_os_error,
)

__all__ = ["BOUNDS", "FIRST_PROBE", "Guard", "Pool", "Span", "Statistics", "bounded", "trace"]

#: Seconds: the bounds of `Statistics.buckets`.
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
#: Seconds until an open breaker lets a first call through; the pause doubles up to the second.
FIRST_PROBE = 1.0
LAST_PROBE = 60.0
#: How many times its size a pool may grow by for threads that hang.
SPARE = 3

T = TypeVar("T")


#: Makes what is entered around a call, of a plugin's instance by name and its method.
Span = Callable[[str, str], AbstractContextManager[object]]

_UNTRACED = nullcontext()


def _untraced(plugin: str, method: str) -> AbstractContextManager[object]:
    return _UNTRACED


_span: Span = _untraced


def trace(span: Span | None) -> None:
    """Have `span` entered around each guarded call from now on; None ends it."""
    global _span
    _span = span or _untraced


class Statistics:
    """What the calls of one method came to: how many, how many failed, seconds in total and at most.

    `buckets` counts them by how long they took: up to each of `BOUNDS` seconds and not the one before, the last beyond all.
    """

    __slots__ = ("buckets", "calls", "errors", "longest", "seconds")

    def __init__(self) -> None:
        self.calls = 0
        self.errors = 0
        self.seconds = 0.0
        self.longest = 0.0
        self.buckets = [0] * (len(BOUNDS) + 1)

    def add(self, seconds: float, failed: bool) -> None:
        """Count one call."""
        self.calls += 1
        self.errors += failed
        self.seconds += seconds
        self.longest = max(self.longest, seconds)
        self.buckets[bisect_left(BOUNDS, seconds)] += 1


class _Job:
    __slots__ = ("arguments", "done", "fn", "future", "keywords", "late", "loop")

    def __init__(
        self,
        fn: Callable[..., Any],
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.fn = fn
        self.arguments = arguments
        self.keywords = keywords
        self.loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()
        self.late: asyncio.Future[None] | None = None  # set when a call that is late has ended
        self.done = False

    def run(self) -> Callable[[], None]:
        """What is left to do: to tell the caller."""
        try:
            result = self.fn(*self.arguments, **self.keywords)
            if isinstance(result, Iterator):
                result = list(result)
        except BaseException as error:  # SystemExit of a plugin is its own failure, not the daemon's
            return partial(self.settle, self.fail, error)
        return partial(self.settle, self.succeed, result)

    def settle(self, how: Callable[[Any], None], outcome: Any) -> None:
        try:
            self.loop.call_soon_threadsafe(how, outcome)
        except RuntimeError:
            pass  # the loop has ended; nobody waits any more

    def succeed(self, result: Any) -> None:
        if not self.future.done():
            self.future.set_result(result)

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            if isinstance(
                error, StopIteration | asyncio.CancelledError | SystemExit | KeyboardInterrupt | GeneratorExit
            ):
                wrapped = Internal(f"raised {type(error).__name__}: {error}")
                wrapped.__cause__ = error
                error = wrapped
            self.future.set_exception(error)


class Pool:
    """A small pool of daemon threads, begun one at a time as they are needed, that never holds up the exit.

    A thread whose call outlived its deadline is held. When all are, the breaker opens: calls fail at once. It closes when
    one of them returns, or when a probe does: now and then one call is let through, on a thread of its own, and when it is
    answered the held threads are written off and replaced, up to `SPARE` times the size of the pool.
    """

    def __init__(self, name: str, size: int, changed: Callable[[], None] = lambda: None) -> None:
        """`changed` is called when the breaker opens or closes, on the loop of the call that it was."""
        self.name = name
        self.size = size
        self._changed = changed
        self._jobs: deque[_Job] = deque()
        self._wake = threading.Condition()
        self._idle = 0
        self._threads = 0
        self._held = 0
        self._spare = 0  # threads beyond `size`, for held ones that were written off
        self._probe: _Job | None = None
        self._open = False
        self._pause = FIRST_PROBE
        self._next_probe = 0.0
        self._closed = False

    @property
    def trouble(self) -> str:
        """Why calls fail at once, a sentence; "" while the breaker is closed."""
        if not self._open:
            return ""
        return f"{self.name} does not answer: all {self.size} of its threads are held by calls past their deadline"

    async def run(self, fn: Callable[..., T], *arguments: Any, deadline: float | None = None, **keywords: Any) -> T:
        """`fn` on one of the threads. Raises what it raises, DeadlineExceeded, or Unavailable with the breaker open."""
        job = _Job(fn, arguments, keywords, asyncio.get_running_loop())
        with self._wake:
            if self._closed:
                raise Unavailable(f"{self.name} is being stopped")
            if self._open:
                self._begin_probe(job)
            self._jobs.append(job)
            if len(self._jobs) <= self._idle and self._probe is not job:
                self._wake.notify()
            elif self._threads < self.size + self._spare:
                self._threads += 1
                threading.Thread(target=self._work, name=self.name, daemon=True).start()
        if deadline is not None:
            # Runs on when the caller gives up: a thread that hangs counts, whoever waits for it.
            timer = job.loop.call_later(deadline, self._expire, job, deadline)
            job.future.add_done_callback(lambda future: None if future.cancelled() else timer.cancel())
        return await job.future  # type: ignore[no-any-return]

    def _begin_probe(self, job: _Job) -> None:
        """Let this call through the open breaker, or raise Unavailable."""
        now = time.monotonic()
        if self._probe is not None or now < self._next_probe or self._spare >= self.size * SPARE:
            raise Unavailable(self.trouble)
        self._probe = job
        self._spare += 1

    def _expire(self, job: _Job, deadline: float) -> None:
        with self._wake:
            if job.done:
                return
            if job in self._jobs:
                self._jobs.remove(job)
                waited = "waited for a free thread"
            else:
                job.late = job.loop.create_future()
                self._held += 1
                waited = "did not return"
                if self._held >= self.size + self._spare:
                    self._next_probe = time.monotonic() + self._pause
                    self._pause = min(self._pause * 2, LAST_PROBE)
                    self._set_open(True, job)
            if self._probe is job:
                self._probe = None
        error = DeadlineExceeded(f"{self.name} {waited} within {deadline:g} s; the outcome is unknown")
        error.ended = job.late
        job.fail(error)

    def _work(self) -> None:
        while True:
            with self._wake:
                while not self._jobs:
                    if self._closed or self._threads > self.size + self._spare:
                        self._threads -= 1
                        return
                    self._idle += 1
                    self._wake.wait()
                    self._idle -= 1
                job = self._jobs.popleft()
            tell = job.run()
            with self._wake:
                job.done = True
                if job.late is not None:
                    job.settle(job.late.set_result, None)
                    self._held -= 1
                    self._spare = min(self._spare, self._held)
                    self._set_open(False, job)
                elif self._probe is job:
                    self._probe = None
                    self._spare = self._held
                    self._set_open(False, job)
            tell()
            del job, tell

    def _set_open(self, open: bool, job: _Job) -> None:
        if not open:
            self._pause = FIRST_PROBE
        if open != self._open:
            self._open = open
            job.settle(lambda _: self._changed(), None)

    def close(self) -> None:
        """Let the threads end when they have done what is queued; stuck ones are left behind."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()


class Guard:
    """Stands for a plugin's instance: every public method is a coroutine function.

    Plain methods run in `pool`, coroutine methods on the loop. Attributes that are not callable are passed through.
    `instance` is the plugin's object itself, which `become` replaces by another.
    """

    def __init__(
        self, name: str, instance: Any, pool: Pool, deadline: float | None, unbounded: tuple[str, ...] = ()
    ) -> None:
        self._name = name
        self.instance = instance
        self._pool = pool
        self._deadline = deadline
        self._unbounded = unbounded
        self._running = 0
        self._gate: asyncio.Event | None = None
        self._drained = asyncio.Event()
        self._gone = ""
        self.statistics: dict[str, Statistics] = {}

    @asynccontextmanager
    async def held(self, seconds: float) -> AsyncIterator[None]:
        """Calls that come wait until the end; those under way have ended when this is entered.

        Raises FailedPrecondition when they have not within `seconds`; nothing is held then.
        """
        self._gate, self._drained = gate, drained = asyncio.Event(), asyncio.Event()
        try:
            if self._running:
                async with asyncio.timeout(seconds):
                    await drained.wait()
        except TimeoutError:
            self._gate = None
            gate.set()
            raise FailedPrecondition(
                f"{self._name} is busy: {self._running} calls under way have not ended within {seconds:g} s; try again later"
            ) from None
        try:
            yield
        finally:
            self._gate = None
            gate.set()

    def become(self, other: Guard | str) -> None:
        """From now on call what `other` guards; or refuse every call, for that reason."""
        for method in self.statistics:
            self.__dict__.pop(method, None)
        self._gone = other if isinstance(other, str) else ""
        if isinstance(other, Guard):
            self._pool.close()
            self.instance, self._pool, self._deadline = other.instance, other._pool, other._deadline

    @property
    def trouble(self) -> str:
        """Why calls fail at once, a sentence; "" while they do not."""
        return self._pool.trouble

    def __getattr__(self, method: str) -> Any:
        target = getattr(self.instance, method)
        if method.startswith("_") or not callable(target):
            return target
        deadline = None if method in self._unbounded else self._deadline
        statistics = self.statistics.setdefault(method, Statistics())
        where = f"{self._name}.{method}"
        on_loop = inspect.iscoroutinefunction(target)

        async def call(*arguments: Any, **keywords: Any) -> Any:
            if self._gate is not None:
                await self._gate.wait()
                return await getattr(self, method)(*arguments, **keywords)
            if self._gone:
                raise Unavailable(self._gone)
            began = time.perf_counter()
            failed = True
            self._running += 1
            try:
                with _span(self._name, method):
                    if on_loop:
                        result = await bounded(target(*arguments, **keywords), deadline, where)
                    else:
                        result = await self._pool.run(target, *arguments, deadline=deadline, **keywords)
                failed = False
                return result
            except (IntermodalError, asyncio.CancelledError):
                raise
            except OSError as error:
                raise from_os_error(error, where) from error
            except BaseException as error:
                raise Internal(f"{where} raised {type(error).__name__}: {error}") from error
            finally:
                self._running -= 1
                if not self._running:
                    self._drained.set()
                statistics.add(time.perf_counter() - began, failed)

        setattr(self, method, call)
        return call


async def bounded(call: Any, deadline: float | None, where: str) -> Any:
    """Await `call` for at most `deadline` seconds; past it raises DeadlineExceeded naming `where`."""
    if deadline is None:
        return await call
    try:
        async with asyncio.timeout(deadline) as scope:
            return await call
    except TimeoutError:
        if scope.expired():
            raise DeadlineExceeded(f"{where} did not return within {deadline:g} s; the outcome is unknown") from None
        raise
