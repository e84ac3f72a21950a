"""The plain calls: containerd's Tasks service by meaning."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import msgspec
from intermodal_api.containerd.events import task_pb2 as events
from intermodal_api.containerd.types import mount_pb2
from intermodal_core.contracts.common import Mount
from intermodal_core.contracts.managers.store import Choice, Scope, Store
from intermodal_core.contracts.managers.tasks import TaskCreate
from intermodal_core.contracts.metadata import Transaction
from intermodal_core.contracts.runtimes import CreateTask, Exit, ProcessState, Stdio, TaskRef
from intermodal_core.errors import (
    AlreadyExists,
    Cancelled,
    FailedPrecondition,
    IntermodalError,
    InvalidArgument,
    NotFound,
    Unavailable,
    Unimplemented,
)
from intermodal_core.events import EventBus
from intermodal_core.registry import Registry
from intermodal_oci.references import validate_identifier
from intermodal_operations import Operation, Runner, Step

from intermodal_tasks import bundle
from intermodal_tasks.calls import ProcessCalls
from intermodal_tasks.moments import Moments
from intermodal_tasks.tables import ALL, RUNS, TASKS, TaskRow
from intermodal_tasks.task import Process, Task

__all__ = ["Tasks"]

log = logging.getLogger("intermodal.tasks")

#: What is told from the returns of a runtime's calls; a foreign shim tells it as well.
_TOLD_HERE = frozenset(
    f"/tasks/{name}" for name in ("create", "start", "delete", "exec-added", "exec-started", "paused", "resumed")
)
#: Seconds that each task left by the last daemon has to be taken up.
_ADOPT = 30.0
#: Seconds between two tries of a runtime that is not up, where nothing tells of a change.
_AGAIN = 5.0


class _Create(msgspec.Struct):
    """State of the operation that creates a task: all that its undo needs."""

    namespace: str
    id: str
    choice: Choice
    bundle: str
    request: TaskCreate


class Tasks(ProcessCalls):
    """Implements `intermodal_core.contracts.managers.tasks.Tasks`.

    `bundles` is a directory that is gone at reboot. `on_start(tx, namespace, id)` joins the transaction that records an init's
    start, and `on_exit(scope, id, exit)` is called, once, when an init process has ended.
    """

    def __init__(self, store: Store, registry: Registry, bus: EventBus, bundles: Path) -> None:
        super().__init__(registry, bus, Moments(registry.hooks, store))
        store.declare(*ALL)
        self._store = store
        self._bundles = bundles
        self._pids: dict[tuple[str, str], int] = {}  # of tasks that are being created
        self.on_start: Callable[[Transaction, str, str], None] | None = None
        self.on_exit: Callable[[Scope, str, Exit], Coroutine[Any, Any, None]] | None = None
        self.operations = Runner(store, "tasks")
        self.operations.register(
            Operation(
                "tasks.create",
                _Create,
                (
                    Step("bundle", self._make_bundle, self._remove_bundle),
                    Step("runtime", self._create_in_runtime, self._clean_in_runtime),
                ),
            )
        )

    # Creating and deleting.

    async def create(self, scope: Scope, request: TaskCreate) -> int:
        """Create the task of a container; returns its pid."""
        container = await self._store.containers.get(scope, request.container)
        key = (scope.namespace, container.id)
        if key in self._tasks or key in self._adopting:
            raise AlreadyExists(f"the container {container.id} has a task already: delete it first")
        assert container.choice is not None
        path = str(self._bundles / scope.namespace / container.id)
        if request.options is None and container.runtime_options is not None:
            request = msgspec.structs.replace(request, options=container.runtime_options)
        state = _Create(scope.namespace, container.id, container.choice, path, request)
        runtime = await self._store.runtime(state.choice)

        def record(tx: Transaction) -> TaskRow:
            row = TaskRow(*key, state.choice, path, self._pids.pop(key), time.time_ns(), request.stdio)
            tx.put(TASKS, row)
            self._store.emit(tx, scope.namespace, "/tasks/create", _created(row, request.rootfs))
            return row

        async with self._store.lock("task", *key):
            if key in self._tasks:
                raise AlreadyExists(f"the container {container.id} has a task already: delete it first")
            row = await self.operations.run("tasks.create", state, record)
            task = Task(row, runtime)
            self._tasks[key] = task
            self._hold()
        self._watch(task, task.init)
        return row.pid

    async def _make_bundle(self, state: _Create) -> None:
        container = await self._store.containers.get(Scope(state.namespace), state.id)
        if container.spec is None:
            raise InvalidArgument(f"the container {state.id} has no spec")
        spec = await self.moments.adjusted(state.namespace, state.id, container.spec)
        run = await self._store.read(lambda tx: tx.get(RUNS, state.namespace, state.id))
        row = TaskRow(state.namespace, state.id, state.choice, state.bundle, 0, time.time_ns(), state.request.stdio)
        bundle.make(state.bundle, state.id, spec, bundle.Kept(container, row, run))

    async def _remove_bundle(self, state: _Create) -> None:
        await asyncio.to_thread(bundle.remove, state.bundle)

    async def _create_in_runtime(self, state: _Create) -> None:
        runtime = await self._store.runtime(state.choice)
        request = state.request
        options = request.options
        # Not into the state: undo does not need it, and a changed state is written again.
        self._pids[state.namespace, state.id] = await runtime.create(
            TaskRef(state.namespace, state.id),
            CreateTask(
                state.bundle,
                request.rootfs,
                request.stdio,
                options.type_url if options else "",
                options.value if options else b"",
                request.checkpoint,
            ),
        )

    async def _clean_in_runtime(self, state: _Create) -> None:
        self._pids.pop((state.namespace, state.id), None)
        runtime = await self._store.runtime(state.choice)
        await runtime.cleanup(TaskRef(state.namespace, state.id), state.bundle)

    async def delete(
        self, scope: Scope, container: str, exec_id: str = "", also: Callable[[Transaction], None] | None = None
    ) -> Exit:
        """Forget a process that has ended; `also` joins the transaction that forgets init."""
        task = await self._task(scope, container)
        process = await self._process(task, exec_id)
        if exec_id:
            ended: Exit = await task.runtime.delete(task.ref, exec_id)
            await self._end(task, process, ended)
            task.processes.pop(exec_id, None)
            return ended
        if process.started and process.exit is None:
            raise FailedPrecondition(f"the container {container} runs: stop it first")
        async with self._store.lock("task", scope.namespace, container):
            if self._tasks.get((scope.namespace, container)) is not task:
                raise NotFound(f"the container {container} has no task")
            try:
                ended = await task.runtime.delete(task.ref)
            except (NotFound, Unavailable):
                ended = await task.runtime.cleanup(task.ref, task.row.bundle)
            ended = process.exit or ended

            def forget(tx: Transaction) -> None:
                tx.delete(TASKS, scope.namespace, container)
                message = events.TaskDelete(
                    container_id=container, pid=ended.pid or process.pid, exit_status=ended.status, id=container
                )
                message.exited_at.FromNanoseconds(ended.exited_at)
                self._store.emit(tx, scope.namespace, "/tasks/delete", message)
                if also is not None:
                    also(tx)

            await self._store.write(forget)
            del self._tasks[scope.namespace, container]
            self._hold()
        for each in task.processes.values():
            if each.watch is not None and each.watch is not asyncio.current_task():
                each.watch.cancel()
        process.exit = ended
        process.ended.set()
        await asyncio.to_thread(bundle.remove, task.row.bundle)
        return msgspec.structs.replace(ended, pid=ended.pid or process.pid)

    # Starting and ending.

    async def start(self, scope: Scope, container: str, exec_id: str = "") -> int:
        """Start a process."""
        task = await self._task(scope, container)
        process = await self._process(task, exec_id)
        if not exec_id:
            await self.moments.tell("before_start", scope.namespace, container)
        process.told.clear()
        try:
            process.pid = await task.runtime.start(task.ref, exec_id)
            process.started = True
            if exec_id:
                message = events.TaskExecStarted(container_id=container, exec_id=exec_id, pid=process.pid)
                await self._tell(scope, "/tasks/exec-started", message)
            else:
                await self._record_start(task)
        finally:
            process.told.set()
        if not exec_id:
            await self.moments.tell("after_start", scope.namespace, container, pid=process.pid)
        return process.pid

    async def _record_start(self, task: Task) -> None:
        row = msgspec.structs.replace(task.row, started_at=time.time_ns(), pid=task.init.pid)

        def record(tx: Transaction) -> None:
            tx.put(TASKS, row)
            started = events.TaskStart(container_id=row.id, pid=row.pid)
            self._store.emit(tx, row.namespace, "/tasks/start", started)
            if self.on_start is not None:
                self.on_start(tx, row.namespace, row.id)

        await self._store.write(record)
        task.row = row

    async def exec(self, scope: Scope, container: str, exec_id: str, process: bytes, stdio: Stdio) -> None:
        """Add a process."""
        validate_identifier(exec_id)
        task = await self._task(scope, container)
        if exec_id in task.processes:
            raise AlreadyExists(f"the container {container} has a process {exec_id} already")
        if task.init.status != "running":
            raise FailedPrecondition(f"the container {container} is {task.init.status}: start it first")
        added = task.processes[exec_id] = Process(exec_id, stdio)
        try:
            await task.runtime.exec(task.ref, exec_id, process, stdio)
        except BaseException:
            del task.processes[exec_id]
            raise
        await self._tell(scope, "/tasks/exec-added", events.TaskExecAdded(container_id=container, exec_id=exec_id))
        self._watch(task, added)

    def _watch(self, task: Task, process: Process) -> None:
        process.watch = self._background.begin(self._until_end(task, process))

    async def _until_end(self, task: Task, process: Process) -> None:
        try:
            ended = await self._exit_of(task, process)
        except Cancelled:
            return  # it lives on, and the next daemon takes it up
        except (NotFound, Unavailable) as error:
            if process.exec_id:
                ended = Exit(process.pid, 137, time.time_ns())  # it went with the shim
            else:
                log.warning("%s/%s: %s; what is left of it is removed", task.ref.namespace, task.ref.id, error)
                ended = await task.runtime.cleanup(task.ref, task.row.bundle)
        await self._end(task, process, ended)

    async def _exit_of(self, task: Task, process: Process) -> Exit:
        """Wait for it; where the runtime lost hold of the task, because its own process ended, with a new hold."""
        while True:
            held = task.held
            try:
                return await task.runtime.wait(task.ref, process.exec_id)  # type: ignore[no-any-return]
            except Unavailable as error:
                log.warning("%s/%s: %s", task.ref.namespace, task.ref.id, error)
            async with self._store.lock("hold", task.ref.namespace, task.ref.id):
                while task.held == held:
                    change = self._registry.change()
                    try:
                        await task.runtime.connect(task.ref, task.row.bundle)
                        task.held += 1
                    except Unavailable:  # the runtime is not up again yet
                        with contextlib.suppress(TimeoutError):
                            await asyncio.wait_for(change.wait(), _AGAIN)

    async def _end(self, task: Task, process: Process, ended: Exit) -> None:
        """Record an end, once, after its start; then tell who waits."""
        await process.told.wait()
        if process.exit is not None:
            return
        process.exit = ended = msgspec.structs.replace(ended, pid=ended.pid or process.pid)
        scope = Scope(task.ref.namespace)
        message = events.TaskExit(
            container_id=task.ref.id, id=process.exec_id or task.ref.id, pid=ended.pid, exit_status=ended.status
        )
        message.exited_at.FromNanoseconds(ended.exited_at)
        if process.exec_id:
            await self._tell(scope, "/tasks/exit", message)
        else:
            task.row = row = msgspec.structs.replace(task.row, exit=ended)

            def record(tx: Transaction) -> None:
                if tx.get(TASKS, row.namespace, row.id) is not None:
                    tx.put(TASKS, row)
                self._store.emit(tx, row.namespace, "/tasks/exit", message)

            await self._store.write(record)
        process.ended.set()
        if not process.exec_id:
            # First, since it looks at the record, which may go with what follows.
            self._background.begin(self.moments.ended(scope.namespace, task.ref.id, ended.status))
            if self.on_exit is not None:
                self._background.begin(self.on_exit(scope, task.ref.id, ended))

    async def wait(self, scope: Scope, container: str, exec_id: str = "") -> Exit:
        """When the process has ended."""
        process = await self._process(await self._task(scope, container), exec_id)
        await process.ended.wait()
        assert process.exit is not None
        return process.exit

    async def forward(self, namespace: str, topic: str, type_url: str, event: bytes) -> None:
        """Take an event from a shim."""
        if topic != "/tasks/exit":
            if topic not in _TOLD_HERE:
                self._bus.publish(namespace, topic, type_url, event)
            return
        message = events.TaskExit.FromString(event)
        task = self._tasks.get((namespace, message.container_id))
        exec_id = "" if message.id == message.container_id else message.id
        process = task.processes.get(exec_id) if task else None
        if task is not None and process is not None:
            ended = Exit(message.pid, message.exit_status, message.exited_at.ToNanoseconds())
            await self._end(task, process, ended)

    # After a restart.

    async def begin_adopting(self) -> None:
        """Know of every task that the last daemon left, before anybody asks; whoever does waits until it is taken up."""
        rows = await self._store.read(lambda tx: list(tx.scan(TASKS)), long=True)
        begun = [state.bundle for state in await self.operations.begun("tasks.create", _Create)]
        known = {*begun, *(row.bundle for row in rows)}
        if self._store.collector.rebuilt is not None:
            rows += await self._take_in(await asyncio.to_thread(bundle.unknown, self._bundles, known))
            known |= {row.bundle for row in rows}
            self._store.rebuilt()
        await asyncio.to_thread(bundle.sweep, self._bundles, known)
        for row in rows:
            self._adopting[row.namespace, row.id] = self._background.begin(self._adopt(row))
        self._hold()

    async def _take_in(self, kept: Sequence[bundle.Kept]) -> list[TaskRow]:
        """Record tasks that run and that rebuilt records do not know."""

        def record(tx: Transaction) -> None:
            for each in kept:
                task = each.task
                with contextlib.suppress(AlreadyExists):
                    self._store.containers.insert(tx, Scope(task.namespace), each.container)
                tx.put(TASKS, task)
                if each.run is not None and tx.get(RUNS, task.namespace, task.id) is None:
                    tx.put(RUNS, each.run)

        await self._store.write(record)
        return [each.task for each in kept]

    async def adopted(self) -> None:
        """When all are taken up, all at once, each with its deadline, and what was half-made is ended."""
        await self.operations.recover(_ADOPT)
        await asyncio.gather(*self._adopting.values(), return_exceptions=True)
        self.moments.greet(lambda: list(self._tasks))

    async def _adopt(self, row: TaskRow) -> None:
        key = (row.namespace, row.id)
        ref = TaskRef(row.namespace, row.id)
        try:
            async with asyncio.timeout(_ADOPT):
                runtime = await self._store.runtime(row.choice)
                task = Task(row, runtime)
                self._tasks[key] = task
                try:
                    await runtime.connect(ref, row.bundle)
                except (NotFound, Unavailable) as error:
                    if row.exit is None:
                        log.warning("%s/%s did not outlive the last daemon: %s", *key, error)
                    ended = await runtime.cleanup(ref, row.bundle)
                    if row.exit is None:
                        await self._end(task, task.init, ended)
                else:
                    await self._take_up(task)
                if row.exit is not None and self.on_exit is not None:
                    self._background.begin(self.on_exit(Scope(row.namespace), row.id, row.exit))
        except (TimeoutError, IntermodalError) as error:
            log.error("%s/%s could not be taken up: %s", *key, error)
        finally:
            self._adopting.pop(key, None)
            self._hold()

    async def _take_up(self, task: Task) -> None:
        """Learn what the runtime knows of a task, and record the start that the last daemon did not come to record."""
        try:
            states = await task.runtime.processes(task.ref)
        except Unimplemented:
            task.partial = True
            states = [await task.runtime.state(task.ref)]
        task.paused = states[0].status == "paused"
        for state in states:
            self._know(task, state)
        if task.init.started and not task.row.started_at:
            await self._record_start(task)
        for process in task.processes.values():
            if process.exit is None:
                self._watch(task, process)

    def _know(self, task: Task, state: ProcessState) -> Process:
        process = task.processes.setdefault(state.exec_id, Process(state.exec_id, state.stdio))
        process.pid = state.pid
        process.started = process.started or state.started or state.status in ("running", "paused", "pausing")
        return process

    async def _learn(self, task: Task, exec_id: str) -> Process:
        """An exec process that was added under the last daemon, of a task whose runtime does not tell of all at once."""
        state = await task.runtime.state(task.ref, exec_id)
        if (process := task.processes.get(exec_id)) is None:
            process = self._know(task, state)
            self._watch(task, process)
            if state.status == "stopped":
                await process.ended.wait()
        return process

    async def close(self) -> None:
        """Stop watching; tasks live on and are taken up by the next daemon."""
        await self._background.cancel()
        await self.operations.close()


def _created(row: TaskRow, rootfs: Sequence[Mount]) -> events.TaskCreate:
    stdio = row.stdio
    return events.TaskCreate(
        container_id=row.id,
        bundle=row.bundle,
        rootfs=[mount_pb2.Mount(type=m.type, source=m.source, target=m.target, options=m.options) for m in rootfs],
        io=events.TaskIO(stdin=stdio.stdin, stdout=stdio.stdout, stderr=stdio.stderr, terminal=stdio.terminal),
        pid=row.pid,
    )
