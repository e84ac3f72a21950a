"""The tasks there are, in memory, and what goes on in the background for them."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import Any

from intermodal_core.background import Background
from intermodal_core.contracts.managers.store import Scope
from intermodal_core.errors import NotFound
from intermodal_core.events import EventBus
from intermodal_core.registry import Registry

from intermodal_tasks.moments import Moments
from intermodal_tasks.task import Process, Task

__all__ = ["TaskTable"]

log = logging.getLogger("intermodal.tasks")


class TaskTable(ABC):
    """Finds tasks by namespace and container; one that is being taken up after a restart is waited for."""

    def __init__(self, registry: Registry, bus: EventBus, moments: Moments) -> None:
        self._registry = registry
        self._bus = bus
        self.moments = moments
        self._tasks: dict[tuple[str, str], Task] = {}
        self._adopting: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._background = Background(log)
        self._busy: AbstractContextManager[None] | None = None

    def has(self, scope: Scope, container: str) -> bool:
        """Whether the container has a task."""
        key = (scope.namespace, container)
        return key in self._tasks or key in self._adopting

    async def _task(self, scope: Scope, container: str) -> Task:
        key = (scope.named, container)
        adopting = self._adopting.get(key)
        if adopting is not None:
            await asyncio.shield(adopting)
        task = self._tasks.get(key)
        if task is None:
            raise NotFound(f"the container {container} has no task in the namespace {scope.namespace}")
        return task

    async def _process(self, task: Task, exec_id: str) -> Process:
        process = task.processes.get(exec_id)
        if process is None and task.partial:
            process = await self._learn(task, exec_id)
        if process is None:
            raise NotFound(f"the container {task.ref.id} has no process {exec_id}")
        return process

    @abstractmethod
    async def _learn(self, task: Task, exec_id: str) -> Process:
        """Ask the runtime for a process that is not known here. Raises NotFound."""

    def _hold(self) -> None:
        """A daemon that ends when it is idle is not idle while there is a task."""
        if self._tasks or self._adopting:
            if self._busy is None:
                self._busy = self._registry.idle.busy()
                self._busy.__enter__()
        elif self._busy is not None:
            self._busy.__exit__(None, None, None)
            self._busy = None

    async def _tell(self, scope: Scope, topic: str, message: Any) -> None:
        self._bus.publish(scope.namespace, topic, message.DESCRIPTOR.full_name, message.SerializeToString())
