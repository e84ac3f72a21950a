"""The shim's poller: epoll, timers and the ends of children. One thread; a callback must not wait."""

from __future__ import annotations

import heapq
import math
import os
import select
import signal
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

__all__ = ["Loop", "Timer"]

_NOTIFY = select.EPOLLPRI | select.EPOLLET
_Callback = tuple[Callable[..., Any], tuple[Any, ...]]


class Timer:
    """A callback to come; `cancel` makes it not come."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callable[[], Any]) -> None:
        self.when = when
        self.callback: Callable[[], Any] | None = callback

    def cancel(self) -> None:
        """Idempotent."""
        self.callback = None

    def __lt__(self, other: Timer) -> bool:
        return self.when < other.when


class Loop:
    """Watches descriptors (`add_reader` and so on are asyncio's, and a ttrpc Poller's), times and children.

    Every child of this process is reaped here and nowhere else, so a pid that was not reported yet is not used anew and
    may be signalled. `on_defect` hears of an exception in a callback, which ends nothing else. The process is a child subreaper: what its runtime commands leave behind becomes its child.
    """

    def __init__(self, on_defect: Callable[[Exception], Any]) -> None:
        self._on_defect = on_defect
        self._epoll = select.epoll()
        self._readers: dict[int, _Callback] = {}
        self._writers: dict[int, _Callback] = {}
        self._notifiers: set[int] = set()
        self._timers: list[Timer] = []
        self._children: dict[int, Callable[[int], Any]] = {}
        self._commands = 0
        self._early: dict[int, int] = {}
        self._stopped = False
        self._wake, self._waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.add_reader(self._wake, self._reap)

    def add_reader(self, fd: int, callback: Callable[..., Any], *args: Any) -> None:
        """Call `callback(*args)` while `fd` is readable, at its end, or broken. Raises PermissionError for a regular file."""
        self._watch(fd, self._readers, (callback, args))

    def remove_reader(self, fd: int) -> bool:
        """Stop that; idempotent."""
        return self._unwatch(fd, self._readers)

    def reading(self, fd: int) -> bool:
        """Whether `fd` has a reader."""
        return fd in self._readers

    def add_writer(self, fd: int, callback: Callable[..., Any], *args: Any) -> None:
        """Call `callback(*args)` while `fd` is writable or broken."""
        self._watch(fd, self._writers, (callback, args))

    def remove_writer(self, fd: int) -> bool:
        """Stop that; idempotent."""
        return self._unwatch(fd, self._writers)

    def add_notifier(self, fd: int, callback: Callable[..., Any], *args: Any) -> None:
        """Call `callback(*args)` when a cgroup v2 file changes; `remove_reader` stops it."""
        self._readers[fd] = (callback, args)
        self._notifiers.add(fd)
        self._epoll.register(fd, _NOTIFY)

    def call_later(self, delay: float, callback: Callable[[], Any]) -> Timer:
        """Call it in `delay` seconds."""
        timer = Timer(time.monotonic() + delay, callback)
        heapq.heappush(self._timers, timer)
        return timer

    def spawn(
        self,
        argv: list[str],
        env: Mapping[bytes, bytes],
        fds: Mapping[int, int],
        ended: Callable[[int], Any],
    ) -> int:
        """Execute a command with `fds` (its number -> ours, 3 and above) and call `ended(status)` at its end; its pid.

        The status is that of a shell: 128 + n for signal n. Raises OSError when it cannot be executed.
        """
        spawn = os.posix_spawn if "/" in argv[0] else os.posix_spawnp
        pid = spawn(
            argv[0],
            argv,
            env,
            file_actions=[(os.POSIX_SPAWN_DUP2, ours, theirs) for theirs, ours in fds.items()],
            setsigmask=(),
            setsigdef=(signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD),
        )
        self._commands += 1
        self._children[pid] = partial(self._command_ended, ended)
        return pid

    def watch(self, pid: int, ended: Callable[[int], Any]) -> None:
        """Call `ended(status)` once the child has ended: at once for one that ended while a command was under way.

        To be called before the command that made it is reported, or from its `ended`.
        """
        if pid in self._early:
            ended(self._early.pop(pid))
        else:
            self._children[pid] = ended

    def take_signals(self) -> None:
        """Reap children from now on, and those that ended before; before the first `spawn`."""
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _noted)
        self._reap()

    def descriptor(self) -> int:
        """Of the poller itself."""
        return self._epoll.fileno()

    @property
    def waker(self) -> int:
        """Where signals are noted; the other end is watched."""
        return self._waker

    def watched(self) -> dict[int, int]:
        """Descriptors, and the events of epoll that each is watched for."""
        fds = self._readers.keys() | self._writers.keys()
        return {fd: _NOTIFY if fd in self._notifiers else self._events(fd) for fd in fds}

    def milliseconds(self) -> int:
        """Until the next timer; -1: there is none."""
        seconds = self._until_timer()
        return math.ceil(seconds * 1000) if seconds >= 0 else -1

    def __getstate__(self) -> dict[str, Any]:
        """All but the poller, for another process with the same descriptors, whose children ours will be: see `rest`."""
        state = self.__dict__.copy()
        del state["_epoll"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._epoll = select.epoll()
        for fd, events in self.watched().items():
            self._epoll.register(fd, events)

    def close(self) -> None:
        """Let go of its descriptors."""
        self._epoll.close()
        os.close(self._wake)
        os.close(self._waker)

    def run(self) -> None:
        """Until `stop`."""
        while not self._stopped:
            self.turn(self._until_timer())

    def turn(self, timeout: float) -> None:
        """Call back for what is ready, once, after at most `timeout` seconds (negative: no limit)."""
        for fd, event in self._epoll.poll(timeout):
            if event & ~select.EPOLLOUT:
                self._call(fd, self._readers)
            if event & ~(select.EPOLLIN | select.EPOLLPRI):
                self._call(fd, self._writers)
        self._run_timers()

    def stop(self) -> None:
        """Make `run` return."""
        self._stopped = True

    def _call(self, fd: int, callbacks: dict[int, _Callback]) -> None:
        callback = callbacks.get(fd)
        if callback is None:
            return
        try:
            callback[0](*callback[1])
        except Exception as error:
            # A defect: what it was about is lost, all else goes on.
            self._on_defect(error)
            if callbacks.get(fd) is callback and callback[0] != self._reap:
                self._unwatch(fd, callbacks)

    def _until_timer(self) -> float:
        while self._timers and self._timers[0].callback is None:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0].when - time.monotonic()) if self._timers else -1

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0].when <= now:
            callback = heapq.heappop(self._timers).callback
            if callback is not None:
                self._guarded(callback)

    def _watch(self, fd: int, watched: dict[int, _Callback], callback: _Callback) -> None:
        known = fd in self._readers or fd in self._writers
        changed = fd not in watched
        watched[fd] = callback
        if changed:
            try:
                (self._epoll.modify if known else self._epoll.register)(fd, self._events(fd))
            except OSError:
                del watched[fd]
                raise

    def _unwatch(self, fd: int, watched: dict[int, _Callback]) -> bool:
        if watched.pop(fd, None) is None:
            return False
        self._notifiers.discard(fd)
        events = self._events(fd)
        if events:
            self._epoll.modify(fd, events)
        else:
            self._epoll.unregister(fd)
        return True

    def _events(self, fd: int) -> int:
        return (select.EPOLLIN if fd in self._readers else 0) | (select.EPOLLOUT if fd in self._writers else 0)

    def _command_ended(self, ended: Callable[[int], Any], status: int) -> None:
        try:
            ended(status)
        finally:
            self._commands -= 1
            if not self._commands:
                self._early.clear()

    def drain(self) -> None:
        """Forget that signals came."""
        try:
            os.read(self._wake, 4096)
        except BlockingIOError:
            pass

    def _reap(self) -> None:
        self.drain()
        ends: list[tuple[int, int]] = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            ends.append((pid, _shell_status(status)))
        # Processes before commands: what ended while its command was under way must be known when that is reported.
        commands = []
        for pid, status in ends:
            ended = self._children.pop(pid, None)
            if ended is not None:
                commands.append((ended, status))
            elif self._commands:
                self._early[pid] = status
        for ended, status in commands:
            self._guarded(ended, status)

    def _guarded(self, callback: Callable[..., Any], *args: Any) -> None:
        try:
            callback(*args)
        except Exception as error:
            self._on_defect(error)


def _noted(*_: object) -> None:
    """The wake-up pipe says it; a handler has to be there for that."""


def _shell_status(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
