"""What is done with containers once they are there."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from intermodal_api.containerd.runtime.runc_options_pb2 import CheckpointOptions
from intermodal_core.contracts.managers.lifecycle import Change, Counters, ProcessView, SwapReport, UpdateOptions
from intermodal_core.contracts.managers.store import AnyValue, Container, Scope, Store
from intermodal_core.contracts.metadata import Transaction
from intermodal_core.contracts.runtimes import RuntimeInfo
from intermodal_core.errors import AlreadyExists, FailedPrecondition, IntermodalError, NotFound, Unimplemented
from intermodal_oci.references import validate_identifier
from intermodal_operations import Runner

from intermodal_tasks.changes import Changes
from intermodal_tasks.composite import Composite
from intermodal_tasks.counters import normalised
from intermodal_tasks.manager import Tasks
from intermodal_tasks.process import RunningProcess
from intermodal_tasks.swap import Swapping
from intermodal_tasks.tables import RUNS

__all__ = ["Lifecycle"]

_ABOUT = "checkpoint.json"
_CPU_PERIOD = 100_000


class Lifecycle:
    """Implements `intermodal_core.contracts.managers.lifecycle.Lifecycle`. `checkpoints` is where they are kept."""

    def __init__(self, tasks: Tasks, composite: Composite, store: Store, changes: Changes, checkpoints: Path) -> None:
        self._tasks = tasks
        self._composite = composite
        self._store = store
        self._checkpoints = checkpoints
        self._changes = changes
        # Ended after a crash once the tasks' own operations are, which its steps begin.
        self._operations = Runner(store, "swaps")
        self._swapping = Swapping(self._operations, store, composite, changes)

    async def recover(self, deadline_each: float) -> None:
        """After a restart, and once all tasks are taken up: what was half swapped goes back."""
        await self._operations.recover(deadline_each)

    async def close(self) -> None:
        """The next daemon goes on."""
        await self._operations.close()

    async def restart(self, scope: Scope, container: str, timeout: float = 10.0) -> None:
        """Stop and start."""
        view = await self._composite.get(scope, container)
        if view.status in ("running", "paused"):
            await self._composite.stop(scope, view.id, timeout)
        await self._composite.start(scope, view.id, None)

    async def attach(self, scope: Scope, container: str, fds: tuple[int, int, int]) -> RunningProcess:
        """Further streams for its init."""
        return await self._composite.attach(scope, container, fds)

    async def update(self, scope: Scope, container: str, options: UpdateOptions) -> None:
        """The kernel first: what it refuses is not recorded."""
        record = await self._record(scope, container)
        resources = _resources(options, record)
        if resources and self._tasks.has(scope, record.id):
            await self._tasks.update(scope, record.id, msgspec.json.encode(resources))
        if resources and record.spec is not None:
            spec = msgspec.json.decode(record.spec.value)
            kept = spec.setdefault("linux", {}).setdefault("resources", {})
            for part, limits in resources.items():
                kept.setdefault(part, {}).update(limits)
            record = msgspec.structs.replace(record, spec=AnyValue(record.spec.type_url, msgspec.json.encode(spec)))
            await self._store.containers.update(scope, record, ["spec"])
        if options.restart is not None:
            await self._composite.restarts.change(scope, record, options.restart)

    async def stats(self, scope: Scope, containers: Sequence[str] = ()) -> list[Counters]:
        """Side by side."""
        if containers:
            names = [(await self._record(scope, name)).id for name in containers]
        else:
            names = [view.id for view in await self._composite.select(scope)]

        async def of(id: str) -> Counters | None:
            try:
                runtime, stats = await self._tasks.counted(scope, id)
            except IntermodalError:
                if containers:
                    raise
                return None  # it has ended meanwhile, or its runtime does not count
            return normalised(id, runtime, time.time_ns(), stats)

        found = await asyncio.gather(*map(of, names))
        return [counters for counters in found if counters is not None]

    async def top(self, scope: Scope, container: str) -> list[ProcessView]:
        """From the host's /proc."""
        record = await self._record(scope, container)
        pids = await self._tasks.pids(scope, record.id)
        views = await asyncio.to_thread(lambda: [_process(pid) for pid in pids])
        return [view for view in views if view is not None]

    async def diff(self, scope: Scope, container: str) -> list[Change]:
        """Against its image."""
        record = await self._record(scope, container)
        assert record.choice is not None
        info: RuntimeInfo = await (await self._store.runtime(record.choice)).info()
        if info.hides_writes:
            raise FailedPrecondition(
                f"what {record.id} writes on {record.choice.instance} stays in an overlay of the sandbox's own;"
                f" take away the option {info.hides_writes}"
            )
        return await self._changes.listed(scope, record)

    async def checkpoint(self, scope: Scope, container: str, name: str = "default", leave_running: bool = False) -> str:
        """Into a directory beside which nothing else is written."""
        validate_identifier(name)
        record = await self._record(scope, container)
        assert record.choice is not None
        runtime = await self._store.runtime(record.choice)
        if "checkpoint" not in self._store.capabilities(record.choice):
            raise Unimplemented(
                f"the runtime {record.choice.instance} takes no checkpoints; {record.id} goes on unchanged"
            )
        path = self._checkpoints / scope.namespace / record.id / name
        if path.exists():
            raise AlreadyExists(f"the container {record.id} has a checkpoint {name} already: name another")
        if not leave_running:
            await self._composite.restarts.stopped(scope, record)
        path.mkdir(mode=0o700, parents=True)
        options = CheckpointOptions(exit=not leave_running)
        try:
            image = path / "image"
            image.mkdir()
            await self._tasks.checkpoint(
                scope, record.id, str(image), options.DESCRIPTOR.full_name, options.SerializeToString()
            )
            info: RuntimeInfo = await runtime.info()
            about = {
                "runtime": info.name,
                "plugin": record.choice.plugin,
                "version": info.version,
                "at": time.time_ns(),
            }
            await asyncio.to_thread((path / _ABOUT).write_text, json.dumps(about))
        except BaseException:
            await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)
            if not leave_running and self._tasks.has(scope, record.id):
                await self._composite.restarts.started(scope, await self._store.containers.get(scope, record.id))
            raise
        if not leave_running:
            await self._composite.settled(scope, record.id)
        return str(path)

    async def restore(self, scope: Scope, container: str, name: str = "default") -> None:
        """A start from what was written."""
        validate_identifier(name)
        record = await self._record(scope, container)
        assert record.choice is not None
        path = self._checkpoints / scope.namespace / record.id / name
        try:
            about = json.loads(await asyncio.to_thread((path / _ABOUT).read_text))
        except FileNotFoundError:
            raise NotFound(f"the container {record.id} has no checkpoint {name}") from None
        info: RuntimeInfo = await (await self._store.runtime(record.choice)).info()
        made, now = (about["plugin"], about["version"]), (record.choice.plugin, info.version)
        if made != now:
            raise FailedPrecondition(
                f"the checkpoint {name} of {record.id} was made by {made[0]} ({made[1]}), and the container is on"
                f" {now[0]} ({now[1]}): their formats differ"
            )
        await self._composite.start(scope, record.id, None, checkpoint=str(path / "image"))

    async def swap(
        self, scope: Scope, container: str, runtime: str, snapshotter: str = "", dry_run: bool = False
    ) -> SwapReport:
        """See the contract."""
        record = await self._record(scope, container)
        if await self._store.read(lambda tx: _run_row(tx, record)) is None:
            raise FailedPrecondition(
                f"the container {record.id} was made by another client, which starts it: swap it there"
            )
        return await self._swapping.run(scope, record, runtime, snapshotter, dry_run)

    async def _record(self, scope: Scope, container: str) -> Container:
        view = await self._composite.get(scope, container)
        return await self._store.containers.get(scope, view.id)


def _run_row(tx: Transaction, record: Container) -> Any:
    return tx.get(RUNS, record.namespace, record.id)


def _resources(options: UpdateOptions, record: Container) -> dict[str, dict[str, int]]:
    """As OCI's `linux.resources`."""
    resources: dict[str, dict[str, int]] = {}
    if options.memory is not None:
        resources["memory"] = {"limit": options.memory}
        spec = msgspec.json.decode(record.spec.value) if record.spec else {}
        if "swap" in ((spec.get("linux") or {}).get("resources") or {}).get("memory", {}):
            resources["memory"]["swap"] = options.memory
    if options.cpus is not None:
        resources["cpu"] = {"quota": round(options.cpus * _CPU_PERIOD), "period": _CPU_PERIOD}
    if options.pids is not None:
        resources["pids"] = {"limit": options.pids}
    return resources


def _process(pid: int) -> ProcessView | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        uid = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None  # it has ended
    fields = stat[2].split()
    ticks = int(fields[11]) + int(fields[12])
    cpu = ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    return ProcessView(
        pid, uid, cpu, int(fields[21]) * os.sysconf("SC_PAGE_SIZE"), command or stat[0].partition("(")[2]
    )
