"""A process of a container as the shim knows it: its state, its streams, who waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable

from intermodal_core.errors import FailedPrecondition, InvalidArgument

from intermodal_shim.stdio import Stdio, Streams

__all__ = ["CREATED", "PAUSED", "PAUSING", "RUNNING", "STOPPED", "UNKNOWN", "Process", "check_signal", "is_first"]

# The numbers of containerd.v1.types.Status.
UNKNOWN, CREATED, RUNNING, STOPPED, PAUSED, PAUSING = range(6)


class Process:
    """Init (exec id "") or an exec process.

    `started`: its start was carried out, whether or not it has ended since. `starting` while its start is not answered yet: an exit that comes earlier is kept in `early`. `command` is the pid of
    the runtime's command that starts it.
    """

    __slots__ = (
        "_drained",
        "_ended",
        "command",
        "early",
        "exec_id",
        "exit_status",
        "exited_at",
        "pid",
        "spec",
        "started",
        "starting",
        "status",
        "stdio",
        "streams",
    )

    def __init__(self, exec_id: str, streams: Streams, spec: bytes = b"") -> None:
        self.exec_id = exec_id
        self.streams = streams
        self.spec = spec
        self.pid = 0
        self.status = UNKNOWN if not exec_id else CREATED
        self.exit_status = 0
        self.exited_at = 0
        self.command = 0
        self.started = False
        self.starting = False
        self.early: int | None = None
        self.stdio: Stdio | None = None
        self._ended: list[Callable[[], object]] = []
        self._drained: list[Callable[[], object]] = []

    @property
    def alive(self) -> bool:
        """Whether there is a process that has not ended."""
        return self.pid > 0 and self.status != STOPPED

    def when_ended(self, callback: Callable[[], object]) -> None:
        """Call it at the end, at once where that was."""
        if self.status == STOPPED:
            callback()
        else:
            self._ended.append(callback)

    def end(self, status: int) -> None:
        """It ended now; tell those who wait."""
        self.exited_at = time.time_ns()
        self.exit_status = status
        self.status = STOPPED
        waiting, self._ended = self._ended, []
        for callback in waiting:
            callback()

    def when_drained(self, callback: Callable[[], object]) -> None:
        """Call it when all output of the ended process is where it belongs, or its sinks' time is over."""
        if self.stdio is None or self.stdio.drained:
            callback()
        else:
            self._drained.append(callback)
            self.stdio.expire()

    def drained(self) -> None:
        """Its stdio says so."""
        if self.status == STOPPED:
            waiting, self._drained = self._drained, []
            for callback in waiting:
                callback()

    def streaming(self) -> Stdio:
        """Its streams. Raises FailedPrecondition before it has some."""
        if self.stdio is None:
            raise FailedPrecondition(f"process {self.exec_id or 'init'} has no streams before it is started")
        return self.stdio


def is_first(pid: int) -> bool:
    """Whether the process is the init of a pid namespace, with whose end the kernel ends all others in it."""
    with open(f"/proc/{pid}/status", "rb", buffering=0) as file:
        status = file.read()
    _, _, pids = status.partition(b"\nNSpid:")
    return pids.partition(b"\n")[0].split()[-1:] == [b"1"]


def check_signal(number: int) -> None:
    """Raises InvalidArgument for what is no signal."""
    if not 1 <= number <= 64:
        raise InvalidArgument(f"{number} is no signal; they go from 1 to 64")
