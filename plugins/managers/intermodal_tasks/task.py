"""One task in memory: its row, its processes, and who waits for their ends."""

from __future__ import annotations

import asyncio
from typing import Any

from intermodal_core.contracts.runtimes import Exit, ProcessState, Status, Stdio, TaskRef

from intermodal_tasks.tables import TaskRow

__all__ = ["Process", "Task"]


class Process:
    """Init (exec id "") or an exec process.

    `told` is set while no start of it is being recorded: its end may be recorded only then, so that start precedes exit.
    """

    __slots__ = ("ended", "exec_id", "exit", "pid", "started", "stdio", "told", "watch")

    def __init__(self, exec_id: str, stdio: Stdio, pid: int = 0) -> None:
        self.exec_id = exec_id
        self.stdio = stdio
        self.pid = pid
        self.started = False
        self.exit: Exit | None = None
        self.ended = asyncio.Event()
        self.told = asyncio.Event()
        self.told.set()
        self.watch: asyncio.Task[None] | None = None

    @property
    def status(self) -> Status:
        """As far as this process alone tells; pausing is the task's."""
        if self.exit is not None:
            return "stopped"
        return "running" if self.started else "created"


class Task:
    """A task, its runtime and its processes by exec id.

    `partial`: it was taken up from a runtime that cannot name its exec processes, so there may be more.
    """

    __slots__ = ("held", "partial", "paused", "processes", "ref", "row", "runtime")

    def __init__(self, row: TaskRow, runtime: Any) -> None:
        self.row = row
        self.runtime = runtime
        self.ref = TaskRef(row.namespace, row.id)
        self.partial = False
        self.held = 0  # how often it was taken up anew
        self.paused = False
        init = Process("", row.stdio, row.pid)
        init.started = bool(row.started_at)
        init.exit = row.exit
        if row.exit is not None:
            init.ended.set()
        self.processes = {"": init}

    @property
    def init(self) -> Process:
        """The first process."""
        return self.processes[""]

    def state(self, process: Process) -> ProcessState:
        """As clients see it."""
        status: Status = process.status
        if status == "running" and self.paused:
            status = "paused"
        ended = process.exit
        return ProcessState(
            self.row.id,
            process.exec_id,
            process.pid,
            status,
            self.row.bundle,
            process.stdio,
            ended.status if ended else 0,
            ended.exited_at if ended else 0,
        )
