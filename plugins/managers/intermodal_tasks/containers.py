"""Containers as commands find and show them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from intermodal_core.contracts.managers.store import Container, Scope, Store
from intermodal_core.contracts.managers.tasks import ContainerView
from intermodal_core.errors import FailedPrecondition, InvalidArgument, NotFound

from intermodal_tasks.manager import Tasks
from intermodal_tasks.tables import RUNS, RunRow
from intermodal_tasks.views import view

__all__ = ["Containers"]


class Containers:
    """The part of `Composite` that changes nothing. `logs` is where containers' logs are kept."""

    def __init__(self, tasks: Tasks, store: Store, logs: Path) -> None:
        self._tasks = tasks
        self._store = store
        self._logs = logs
        self._timings: dict[tuple[str, str], list[tuple[str, float]]] = {}

    async def select(self, scope: Scope, all: bool = False) -> list[ContainerView]:
        """The namespace's containers, newest first; those that run unless `all`."""
        records = await self._store.containers.select(scope)
        views = [await self._view(scope, record) for record in records]
        shown = [each for each in views if all or each.status in ("running", "paused")]
        return sorted(shown, key=lambda each: -each.created_at)

    async def get(self, scope: Scope, container: str) -> ContainerView:
        """One container."""
        return await self._view(scope, await self._container(scope, container))

    async def _view(self, scope: Scope, record: Container) -> ContainerView:
        row = await self._store.read(lambda tx: tx.get(RUNS, scope.namespace, record.id))
        try:
            state = await self._tasks.get(scope, record.id)
        except NotFound:
            state = None
        return view(record, row, state)

    async def inspect(self, scope: Scope, container: str) -> dict[str, Any]:
        """Everything known, ready for JSON."""
        record = await self._container(scope, container)
        shown: dict[str, Any] = msgspec.to_builtins(await self._view(scope, record))
        row = await self._store.read(lambda tx: tx.get(RUNS, scope.namespace, record.id))
        shown["namespace"] = scope.namespace
        shown["choice"] = msgspec.to_builtins(record.choice)
        shown["options"] = msgspec.to_builtins(row.options) if row else None
        shown["spec"] = msgspec.json.decode(record.spec.value) if record.spec else None
        shown["snapshot_key"] = record.snapshot_key
        shown["extensions"] = sorted(record.extensions)
        shown["timings"] = self._timings.get((scope.namespace, record.id), [])
        return shown

    async def logs(self, scope: Scope, container: str) -> list[str]:
        """The log files, oldest first."""
        _, row = await self._own(scope, container)
        directory = self._log_directory(row.namespace, row.id)

        def age(path: Path) -> int:
            suffix = path.name.removeprefix("container.log").lstrip(".")
            return -int(suffix) if suffix.isdigit() else 0

        return [str(path) for path in sorted(directory.glob("container.log*"), key=age)]

    def timings(self, scope: Scope, container: str) -> list[tuple[str, float]]:
        """The phases of the last start."""
        return list(self._timings.get((scope.namespace, container), []))

    def _log_directory(self, namespace: str, id: str) -> Path:
        return self._logs / namespace / id

    async def _own(self, scope: Scope, container: str) -> tuple[Container, RunRow]:
        """The records of a container that a command made. Raises FailedPrecondition for another client's."""
        record = await self._container(scope, container)
        row = await self._store.read(lambda tx: tx.get(RUNS, scope.namespace, record.id))
        if row is None:
            raise FailedPrecondition(
                f"the container {record.id} was made by another client, which starts it and keeps its output"
            )
        return record, row

    async def _container(self, scope: Scope, container: str) -> Container:
        """By id, or by the first characters of one."""
        try:
            return await self._store.containers.get(scope, container)
        except NotFound:
            records = await self._store.containers.select(scope)
            matching = [record for record in records if record.id.startswith(container)] if container else []
            if len(matching) == 1:
                return matching[0]
            if matching:
                names = ", ".join(record.id for record in matching[:5])
                raise InvalidArgument(f"{container} is the beginning of several containers: {names}") from None
            raise
