"""A process that a command runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from intermodal_core.contracts.managers.store import Scope
from intermodal_core.contracts.runtimes import Exit

if TYPE_CHECKING:
    from intermodal_tasks.manager import Tasks

__all__ = ["RunningProcess"]


class RunningProcess:
    """Implements `intermodal_core.contracts.managers.tasks.RunningProcess`.

    `finish` returns once the process has ended and its output has been delivered.
    """

    def __init__(
        self, tasks: Tasks, scope: Scope, container: str, exec_id: str, pid: int, finish: Callable[[], Awaitable[Exit]]
    ) -> None:
        self._tasks = tasks
        self._scope = scope
        self._finish = finish
        self.container = container
        self.exec_id = exec_id
        self.pid = pid

    async def wait(self) -> Exit:
        """When it has ended and its output has been delivered."""
        return await self._finish()

    async def kill(self, signal: int) -> None:
        """Send it a signal."""
        await self._tasks.kill(self._scope, self.container, signal, self.exec_id)

    async def resize(self, width: int, height: int) -> None:
        """Set its terminal's size."""
        await self._tasks.resize(self._scope, self.container, width, height, self.exec_id)

    async def close_stdin(self) -> None:
        """No more input will come."""
        await self._tasks.close_stdin(self._scope, self.container, self.exec_id)
