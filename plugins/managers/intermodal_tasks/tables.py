"""The tables of the tasks manager."""

from __future__ import annotations

from typing import Any

import msgspec
from intermodal_core.contracts.managers.store import Choice
from intermodal_core.contracts.managers.tasks import RunOptions
from intermodal_core.contracts.metadata import Table
from intermodal_core.contracts.runtimes import Exit, Stdio

__all__ = ["ALL", "RUNS", "TASKS", "RunRow", "TaskRow"]


class TaskRow(msgspec.Struct, frozen=True):
    """A task that was created and not yet deleted; times in ns since the epoch, 0 for not yet."""

    namespace: str
    id: str
    choice: Choice
    bundle: str
    pid: int
    created_at: int
    stdio: Stdio = Stdio()
    started_at: int = 0
    exit: Exit | None = None


class RunRow(msgspec.Struct, frozen=True):
    """A container that a command made: what was asked for, and how its last run went.

    `pending`: made by `run` and not started yet; a start of the daemon removes it.
    """

    namespace: str
    id: str
    options: RunOptions
    networks: tuple[str, ...] = ()
    stop_signal: int = 15
    pending: bool = False
    started_at: int = 0
    exit: Exit | None = None


def _choice(old: dict[str, object]) -> dict[str, object]:
    """1 to 2: a runtime's name became all that was pinned."""
    return {**{key: value for key, value in old.items() if key != "runtime"}, "choice": {"instance": old["runtime"]}}


TASKS = Table("tasks", TaskRow, ("namespace", "id"), migrations=(_choice,))
RUNS = Table("runs", RunRow, ("namespace", "id"))

ALL: tuple[Table[Any], ...] = (TASKS, RUNS)
