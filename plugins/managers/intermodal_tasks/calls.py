"""The calls that pass on to a task's runtime, or answer from memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from intermodal_api.containerd.events import task_pb2 as events
from intermodal_core.contracts.managers.store import Scope
from intermodal_core.contracts.managers.tasks import Metric
from intermodal_core.contracts.runtimes import ProcessState, Stats
from intermodal_core.errors import IntermodalError, NotFound
from intermodal_core.filters import compile_filters, resolver_of

from intermodal_tasks.moments import STOPPING
from intermodal_tasks.table import TaskTable

__all__ = ["ProcessCalls"]


class ProcessCalls(TaskTable):
    """What needs no record: states, signals, streams, limits, counters."""

    async def get(self, scope: Scope, container: str, exec_id: str = "") -> ProcessState:
        """A process's state."""
        task = await self._task(scope, container)
        return task.state(await self._process(task, exec_id))

    async def select(self, scope: Scope) -> list[ProcessState]:
        """The namespace's tasks, exec processes apart."""
        mine = scope.named
        adopting = [work for (namespace, _), work in self._adopting.items() if namespace == mine]
        await asyncio.gather(*map(asyncio.shield, adopting), return_exceptions=True)
        return [task.state(task.init) for (namespace, _), task in self._tasks.items() if namespace == mine]

    async def kill(self, scope: Scope, container: str, signal: int, exec_id: str = "", all: bool = False) -> None:
        """Send a signal."""
        task = await self._task(scope, container)
        process = await self._process(task, exec_id)
        if process.exit is not None and not all:
            raise NotFound(f"the process {exec_id or container} has ended")
        if not exec_id and signal in STOPPING:
            await self.moments.stopping(scope.namespace, container, signal)
        await task.runtime.kill(task.ref, signal, exec_id, all)

    async def resize(self, scope: Scope, container: str, width: int, height: int, exec_id: str = "") -> None:
        """Set a terminal's size."""
        task = await self._task(scope, container)
        await self._process(task, exec_id)
        await task.runtime.resize(task.ref, width, height, exec_id)

    async def close_stdin(self, scope: Scope, container: str, exec_id: str = "") -> None:
        """No more input."""
        task = await self._task(scope, container)
        if (await self._process(task, exec_id)).exit is None:
            await task.runtime.close_stdin(task.ref, exec_id)

    async def attach(
        self, scope: Scope, container: str, fds: tuple[int, int, int], exec_id: str = "", hold: bool = False
    ) -> None:
        """Add descriptors to a process's streams; see the runtimes contract."""
        task = await self._task(scope, container)
        await self._process(task, exec_id)
        await task.runtime.attach(task.ref, fds, exec_id, hold)

    async def pause(self, scope: Scope, container: str) -> None:
        """Freeze."""
        task = await self._task(scope, container)
        await task.runtime.pause(task.ref)
        task.paused = True
        await self._tell(scope, "/tasks/paused", events.TaskPaused(container_id=container))

    async def resume(self, scope: Scope, container: str) -> None:
        """Thaw."""
        task = await self._task(scope, container)
        await task.runtime.resume(task.ref)
        task.paused = False
        await self._tell(scope, "/tasks/resumed", events.TaskResumed(container_id=container))

    async def pids(self, scope: Scope, container: str) -> list[int]:
        """Host pids inside."""
        task = await self._task(scope, container)
        return await task.runtime.pids(task.ref)  # type: ignore[no-any-return]

    async def update(self, scope: Scope, container: str, resources: bytes) -> None:
        """Change limits."""
        task = await self._task(scope, container)
        await task.runtime.update(task.ref, resources)

    async def checkpoint(
        self, scope: Scope, container: str, path: str, options_type: str = "", options: bytes = b""
    ) -> None:
        """Write a checkpoint."""
        task = await self._task(scope, container)
        await task.runtime.checkpoint(task.ref, path, options_type, options)
        await self._tell(scope, "/tasks/checkpointed", events.TaskCheckpointed(container_id=container, checkpoint=path))

    async def counted(self, scope: Scope, container: str) -> tuple[str, Stats]:
        """The runtime's name, and the task's counters."""
        task = await self._task(scope, container)
        return task.row.choice.instance, await task.runtime.stats(task.ref)

    async def metrics(self, scope: Scope, filters: Sequence[str] = ()) -> list[Metric]:
        """Counters of running tasks; filters on id. A task that ends meanwhile is left out."""
        matches = compile_filters(list(filters))
        chosen = [
            task
            for (namespace, id), task in self._tasks.items()
            if namespace == scope.namespace and task.init.exit is None and matches(resolver_of({"id": id}))
        ]
        found = await asyncio.gather(*(task.runtime.stats(task.ref) for task in chosen), return_exceptions=True)
        now = time.time_ns()
        metrics = []
        for task, stats in zip(chosen, found, strict=True):
            if not isinstance(stats, BaseException):
                metrics.append(Metric(task.ref.id, now, stats.type_url, stats.data))
            elif not isinstance(stats, IntermodalError):
                raise stats
        return metrics
