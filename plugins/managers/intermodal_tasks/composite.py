"""What commands call: containers made, run, looked at and removed as a whole."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import shutil
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from intermodal_core.contracts.common import Mount
from intermodal_core.contracts.managers.networks import AttachmentView, Networks, Wanted
from intermodal_core.contracts.managers.store import Container, Scope, Store
from intermodal_core.contracts.managers.tasks import ExecOptions, RunOptions, RuntimeView, TaskCreate
from intermodal_core.contracts.metadata import Transaction
from intermodal_core.contracts.runtimes import Exit, Stdio
from intermodal_core.errors import AlreadyExists, FailedPrecondition, IntermodalError, InvalidArgument, NotFound
from intermodal_core.registry import Registry
from intermodal_oci.spec import build_process

from intermodal_tasks.containers import Containers
from intermodal_tasks.creation import Creation, wanted_of
from intermodal_tasks.inventory import runtimes
from intermodal_tasks.manager import Tasks
from intermodal_tasks.moments import STOPPING
from intermodal_tasks.process import RunningProcess
from intermodal_tasks.restarts import LOG, STATUS, Restarts, labels_of
from intermodal_tasks.specs import Lookups
from intermodal_tasks.tables import RUNS, RunRow

__all__ = ["Composite"]

log = logging.getLogger("intermodal.containers")

#: A stream that only attached descriptors feed and read.
_ATTACH = "attach://"


class Composite(Containers):
    """Implements `intermodal_core.contracts.managers.tasks.Composite`.

    `lookups` gives root filesystems to look users up in.
    """

    def __init__(
        self,
        tasks: Tasks,
        store: Store,
        creation: Creation,
        networks: Networks,
        registry: Registry,
        lookups: Lookups,
        logs: Path,
        log_options: str = "",
    ) -> None:
        super().__init__(tasks, store, logs)
        self._creation = creation
        self._networks = networks
        self._registry = registry
        self._lookups = lookups
        self._log_options = log_options
        self._began = time.time_ns()
        self._ending: dict[tuple[str, str], asyncio.Task[None]] = {}
        tasks.on_start = self._at_start
        tasks.on_exit = self._after_exit
        self.restarts = Restarts(store, self._start_again)

    # Running.

    async def create(self, scope: Scope, options: RunOptions) -> Container:
        """Make a container; nothing of it runs yet."""
        return await self._create(scope, options, pending=False)

    async def _create(self, scope: Scope, options: RunOptions, pending: bool) -> Container:
        if options.restart != "no":
            if options.remove:
                raise InvalidArgument(f"a container that is removed at its end cannot be restarted ({options.restart})")
            options = msgspec.structs.replace(options, labels=options.labels | labels_of(options.restart))
        container, phases = await self._creation.run(scope, options, pending)
        self._timings[scope.namespace, container.id] = phases
        return container

    async def run(self, scope: Scope, options: RunOptions, fds: tuple[int, int, int] | None) -> RunningProcess:
        """`create` and `start`; what cannot be started is removed again."""
        # A caller who gives up while the record is being made would not know that there is something to remove.
        creating = asyncio.ensure_future(self._create(scope, options, pending=True))
        try:
            container = await asyncio.shield(creating)
        except asyncio.CancelledError:
            await asyncio.wait([creating])
            if creating.exception() is None:
                await asyncio.shield(self.remove(scope, creating.result().id, force=True))
            raise
        try:
            return await self.start(scope, container.id, fds)
        except BaseException:
            await asyncio.shield(self.remove(scope, container.id, force=True))
            raise

    async def start(
        self, scope: Scope, container: str, fds: tuple[int, int, int] | None, checkpoint: str = ""
    ) -> RunningProcess:
        """Start a container that has no task, or an ended one; from a checkpoint, a directory, where one is given."""
        record, row = await self._own(scope, container)
        await self.restarts.started(scope, record)
        return await self._begin(scope, record, row, fds, checkpoint)

    async def _begin(
        self, scope: Scope, record: Container, row: RunRow, fds: tuple[int, int, int] | None, checkpoint: str = ""
    ) -> RunningProcess:
        key = (scope.namespace, row.id)
        await self._settle_last_run(scope, row.id)
        began = time.perf_counter()
        mounts = await self._store.snapshots.mounts(scope, record.snapshotter, record.snapshot_key)
        # Networks are attached while the runtime makes the container; what it needs of them is made before.
        attaching = await self._begin_networks(scope, row)
        try:
            await self._tasks.create(scope, TaskCreate(row.id, tuple(mounts), self._stdio(row), checkpoint=checkpoint))
        except BaseException:
            await asyncio.shield(self._end_networks(scope, row.id, attaching))
            raise
        created = time.perf_counter()
        try:
            await attaching
            attached = time.perf_counter()
            if fds is not None:
                await self._tasks.attach(scope, row.id, _wanted(fds, row.options.interactive), hold=True)
            pid = await self._tasks.start(scope, row.id)
        except BaseException:
            await asyncio.shield(self._abandon(scope, row.id))
            await asyncio.shield(self._end_networks(scope, row.id, attaching))
            raise
        phases = {
            **dict(self._timings.get(key, ())),
            "task": created - began,
            "network": attached - created,
            "start": time.perf_counter() - attached,
        }
        self._timings[key] = list(phases.items())
        return RunningProcess(self._tasks, scope, row.id, "", pid, lambda: self._ended(scope, row.id))

    def _at_start(self, tx: Transaction, namespace: str, id: str) -> None:
        row = tx.get(RUNS, namespace, id)
        if row is not None:
            tx.put(RUNS, msgspec.structs.replace(row, pending=False, started_at=time.time_ns(), exit=None))

    def _stdio(self, row: RunRow) -> Stdio:
        directory = self._log_directory(row.namespace, row.id)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        log = f"cri://{directory}/container.log{self._log_options}"
        terminal = row.options.terminal
        return Stdio(_ATTACH if row.options.interactive else "", log, "" if terminal else log, terminal)

    async def _begin_networks(self, scope: Scope, row: RunRow) -> asyncio.Future[Any]:
        """Make the namespace, and begin to attach."""
        try:
            await self._networks.prepare(scope, row.id, wanted_of(row.options, "", row.networks))
        except BaseException:
            self._networks.release(scope, row.id)
            raise
        return asyncio.ensure_future(self._networks.attach(scope, row.id))

    async def _end_networks(self, scope: Scope, container: str, attaching: asyncio.Future[Any]) -> None:
        """Take back networks of a start that failed; what is being made is made first."""
        await asyncio.wait([attaching])
        if not attaching.cancelled():
            attaching.exception()  # the error that matters is the start's
        self._networks.release(scope, container)

    async def _abandon(self, scope: Scope, container: str) -> None:
        """Take back the task of a start that failed."""
        try:
            await self._tasks.kill(scope, container, signal.SIGKILL)
            await self._tasks.wait(scope, container)
        except IntermodalError:
            pass  # it never ran
        try:
            await self._tasks.delete(scope, container)
        except NotFound:
            pass

    async def _settle_last_run(self, scope: Scope, container: str) -> None:
        ending = self._ending.get((scope.namespace, container))
        if ending is not None:
            await asyncio.shield(ending)
        if self._tasks.has(scope, container):
            state = await self._tasks.get(scope, container)
            raise FailedPrecondition(f"the container {container} is {state.status} already")

    async def _after_exit(self, scope: Scope, container: str, ended: Exit) -> None:
        """What follows when init ends: the shim goes once the output is out; --rm removes the container."""
        key = (scope.namespace, container)
        row = await self._store.read(lambda tx: tx.get(RUNS, *key))
        if row is None:
            await self.restarts.ended(scope, container, ended.status)
            return  # a client's own container: the client deletes its task, unless we are to restart it
        current = asyncio.current_task()
        assert current is not None
        self._ending[key] = current
        try:

            def record(tx: Transaction) -> None:
                now = tx.get(RUNS, *key)
                if now is not None:
                    tx.put(RUNS, msgspec.structs.replace(now, exit=ended))

            try:
                await self._tasks.delete(scope, container, also=record)
            except NotFound:
                pass  # deleted by somebody else already
            self._networks.release(scope, container)
            if row.options.remove and not row.pending:
                await self._remove_record(scope, row)
        finally:
            del self._ending[key]
        await self.restarts.ended(scope, container, ended.status)

    async def _start_again(self, scope: Scope, record: Container) -> None:
        """What a restart policy asks for. A client's own container gets a new task, whose output goes where its label says."""
        row = await self._store.read(lambda tx: tx.get(RUNS, scope.namespace, record.id))
        if row is not None:
            await self._begin(scope, record, row, None)
            return
        if self._tasks.has(scope, record.id):
            if (await self._tasks.get(scope, record.id)).status != "stopped":
                return  # the client was faster
            await self._tasks.delete(scope, record.id)
        mounts: tuple[Mount, ...] = ()
        if record.snapshot_key:
            mounts = tuple(await self._store.snapshots.mounts(scope, record.snapshotter, record.snapshot_key))
        output = record.labels.get(LOG, "")
        await self._tasks.create(scope, TaskCreate(record.id, mounts, Stdio("", output, output)))
        await self._tasks.start(scope, record.id)

    # Turns, of a swap.

    async def is_running(self, scope: Scope, id: str) -> bool:
        """Whether it has a task that has not ended."""
        return self._tasks.has(scope, id) and (await self._tasks.get(scope, id)).status in ("running", "paused")

    async def turn_off(self, scope: Scope, id: str, timeout: float) -> None:
        """Stop it without telling its restart policy that somebody did; idempotent."""
        await self.restarts.cancel(scope, id)
        if self._tasks.has(scope, id):
            try:
                await self._stop(scope, await self._container(scope, id), timeout)
            except (FailedPrecondition, NotFound):
                pass  # it ended by itself
            await self._abandon(scope, id)
        await self.settled(scope, id)

    async def turn_on(self, scope: Scope, id: str) -> None:
        """Start it, unless it runs."""
        record, row = await self._own(scope, id)
        if not await self.is_running(scope, id):
            await self._begin(scope, record, row, None)

    async def settled(self, scope: Scope, container: str) -> None:
        """When what follows an end is over."""
        await asyncio.sleep(0)
        ending = self._ending.get((scope.namespace, container))
        if ending is not None:
            await asyncio.shield(ending)
        await self.restarts.cancel(scope, container)

    async def attach(self, scope: Scope, container: str, fds: tuple[int, int, int]) -> RunningProcess:
        """Init, with further streams."""
        record = await self._container(scope, container)
        row = await self._store.read(lambda tx: tx.get(RUNS, scope.namespace, record.id))
        if not await self.is_running(scope, record.id):
            raise FailedPrecondition(f"the container {record.id} does not run: start it, or look at its logs")
        pid = (await self._tasks.get(scope, record.id)).pid
        interactive = row is not None and row.options.interactive
        await self._tasks.attach(scope, record.id, _wanted(fds, interactive), hold=True)
        return RunningProcess(self._tasks, scope, record.id, "", pid, lambda: self._ended(scope, record.id))

    async def _ended(self, scope: Scope, container: str) -> Exit:
        exit = await self._tasks.wait(scope, container)
        await asyncio.sleep(0)  # what follows has begun
        ending = self._ending.get((scope.namespace, container))
        if ending is not None:
            await asyncio.shield(ending)
        return exit

    async def exec(
        self, scope: Scope, container: str, options: ExecOptions, fds: tuple[int, int, int] | None
    ) -> RunningProcess:
        """Run one more process in a running container."""
        record = await self._container(scope, container)
        if record.spec is None:
            raise FailedPrecondition(f"the container {record.id} has no spec")
        spec = msgspec.json.decode(record.spec.value)
        async with self._root_for(options.user, scope, record) as rootfs:
            process = build_process(
                spec,
                options.args,
                env=options.env,
                cwd=options.workdir,
                user=options.user,
                terminal=options.terminal,
                rootfs=rootfs,
            )
        exec_id = f"exec-{secrets.token_hex(8)}"
        streams = _ATTACH if fds is not None else ""
        stdio = Stdio(
            _ATTACH if options.interactive else "", streams, "" if options.terminal else streams, options.terminal
        )
        await self._tasks.exec(scope, record.id, exec_id, msgspec.json.encode(process), stdio)
        try:
            pid = await self._tasks.start(scope, record.id, exec_id)
            if fds is not None:  # a process has its streams once it is started; its output waits for them
                await self._tasks.attach(scope, record.id, _wanted(fds, options.interactive), exec_id, hold=True)
        except BaseException:
            await asyncio.shield(self._forget_exec(scope, record.id, exec_id))
            raise

        async def finish() -> Exit:
            ended = await self._tasks.wait(scope, record.id, exec_id)
            await self._forget_exec(scope, record.id, exec_id)
            return ended

        return RunningProcess(self._tasks, scope, record.id, exec_id, pid, finish)

    @asynccontextmanager
    async def _root_for(self, user: str, scope: Scope, record: Container) -> AsyncIterator[str | None]:
        """The root filesystem to look `user` up in; none where there is nobody to look up."""
        if not user:
            yield None
            return
        mounts = await self._store.snapshots.mounts(scope, record.snapshotter, record.snapshot_key)
        async with self._lookups.open(mounts) as rootfs:
            yield rootfs

    async def _forget_exec(self, scope: Scope, container: str, exec_id: str) -> None:
        try:
            await self._tasks.delete(scope, container, exec_id)
        except IntermodalError as error:
            log.debug("%s of %s: %s", exec_id, container, error)

    async def runtimes(self) -> list[RuntimeView]:
        """Every runtime, and what stays with it."""
        return await runtimes(self._registry, self._store, self._tasks)

    # Ending.

    async def stop(self, scope: Scope, container: str, timeout: float = 10.0) -> int:
        """The stop signal, and SIGKILL when that did not end it in time."""
        record = await self._container(scope, container)
        waited = self.restarts.waits(scope, record.id)
        await self.restarts.stopped(scope, record)
        if waited and not self._tasks.has(scope, record.id):
            return 0
        return await self._stop(scope, record, timeout)

    async def _stop(self, scope: Scope, record: Container, timeout: float) -> int:
        row = await self._store.read(lambda tx: tx.get(RUNS, scope.namespace, record.id))
        if not self._tasks.has(scope, record.id):
            if row is not None and row.exit is not None:
                return row.exit.status
            raise FailedPrecondition(f"the container {record.id} does not run")
        state = await self._tasks.get(scope, record.id)
        if state.status == "paused":
            await self._tasks.resume(scope, record.id)
        try:
            stop_signal = row.stop_signal if row else signal.SIGTERM
            if stop_signal not in STOPPING:
                await self._tasks.moments.stopping(scope.namespace, record.id, stop_signal)
            await self._tasks.kill(scope, record.id, stop_signal)
            async with asyncio.timeout(timeout):
                return (await self._ended(scope, record.id)).status
        except TimeoutError:
            await self._tasks.kill(scope, record.id, signal.SIGKILL)
        except NotFound:
            pass  # it ended by itself
        return (await self._ended(scope, record.id)).status

    async def kill(self, scope: Scope, container: str, signal: int, all: bool = False) -> None:
        """Send a signal to init, or to all."""
        record = await self._container(scope, container)
        if signal in STOPPING:
            await self.restarts.stopped(scope, record)
        await self._tasks.kill(scope, record.id, signal, all=all)

    async def pause(self, scope: Scope, container: str) -> None:
        """Freeze."""
        await self._tasks.pause(scope, (await self._container(scope, container)).id)

    async def resume(self, scope: Scope, container: str) -> None:
        """Thaw."""
        await self._tasks.resume(scope, (await self._container(scope, container)).id)

    async def remove(self, scope: Scope, container: str, force: bool = False) -> None:
        """Delete task, snapshot, record and log."""
        record = await self._container(scope, container)
        key = (scope.namespace, record.id)
        if force or not self._tasks.has(scope, record.id):
            await self.restarts.stopped(scope, record)
        if self._tasks.has(scope, record.id):
            state = await self._tasks.get(scope, record.id)
            if state.status in ("running", "paused") and not force:
                raise FailedPrecondition(
                    f"the container {record.id} is {state.status}: stop it first (imod stop {record.id}), or use rm -f"
                )
            if state.status == "paused":
                await self._tasks.resume(scope, record.id)
            await self._abandon(scope, record.id)
        ending = self._ending.get(key)
        if ending is not None:
            await asyncio.shield(ending)
        row = await self._store.read(lambda tx: tx.get(RUNS, *key))
        if row is not None:
            await self._remove_record(scope, row)
        else:
            with contextlib.suppress(NotFound):  # --rm was faster
                await self._store.containers.delete(scope, record.id)

    async def _remove_record(self, scope: Scope, row: RunRow) -> None:
        """The record and all that hangs on it, in one transaction; bytes go afterwards."""
        key = (row.namespace, row.id)
        self._networks.release(scope, row.id)  # it is not waited for

        def forget(tx: Transaction) -> None:
            self._networks.forget(tx, *key)
            if tx.delete(RUNS, *key):
                self._store.forget_container(tx, *key)

        await self._store.write(forget)
        self._store.removed()
        self._timings.pop(key, None)
        await asyncio.to_thread(shutil.rmtree, self._log_directory(*key), ignore_errors=True)

    # Networks.

    async def connect(
        self, scope: Scope, container: str, network: str, addresses: tuple[str, ...] = ()
    ) -> AttachmentView | None:
        """Put a container into one more network, now where it runs, and at each start."""
        record, row = await self._own(scope, container)
        runs = self._tasks.has(scope, record.id)
        if network in row.networks and not runs:
            raise AlreadyExists(f"the container {record.id} is in the network {network} already")
        others = tuple(name for name in row.networks if name != network)
        plan = await self._networks.plan(scope, record.id, Wanted(networks=(*others, network)))
        # First: what is wanted and was not made after all can be asked for again.
        await self._change_networks(row, plan.networks if network not in row.networks else row.networks)
        if not runs:
            return None
        try:
            return await self._networks.connect(scope, record.id, network, Wanted(addresses=addresses))
        except BaseException:
            await asyncio.shield(self._change_networks(row, row.networks))
            raise

    async def disconnect(self, scope: Scope, container: str, network: str) -> None:
        """Take a container out of a network, now and for good."""
        record, row = await self._own(scope, container)
        if network not in row.networks:
            raise NotFound(f"the container {record.id} is not in the network {network}")
        if len(row.networks) == 1:
            raise FailedPrecondition(f"{network} is the only network of {record.id}: connect it to another one first")
        if self._tasks.has(scope, record.id):
            await self._networks.disconnect(scope, record.id, network)
        await self._change_networks(row, tuple(name for name in row.networks if name != network))

    async def _change_networks(self, row: RunRow, networks: tuple[str, ...]) -> None:
        def change(tx: Transaction) -> None:
            now = tx.get(RUNS, row.namespace, row.id)
            if now is not None:
                tx.put(RUNS, msgspec.structs.replace(now, networks=networks))

        await self._store.write(change)

    async def networks_wanted(self) -> set[str]:
        """The networks that containers of any namespace are in when they run."""
        rows = await self._store.read(lambda tx: list(tx.scan(RUNS)), long=True)
        return {name for row in rows for name in row.networks}

    async def recover(self) -> None:
        """After a restart: remove what `run` had made and not started, and finish removals by --rm."""
        rows = await self._store.read(lambda tx: list(tx.scan(RUNS)), long=True)
        await self._networks.keep(
            {(row.namespace, row.id) for row in rows if self._tasks.has(Scope(row.namespace), row.id)}
        )
        for row in rows:
            scope = Scope(row.namespace)
            with contextlib.suppress(NotFound):
                if (await self._store.containers.get(scope, row.id)).created_at >= self._began:
                    continue  # somebody makes it right now
            over = row.pending or (row.options.remove and row.exit is not None)
            if over and not self._tasks.has(scope, row.id):
                await self._remove_record(scope, row)
            elif row.pending:
                await self.remove(scope, row.id, force=True)
        for namespace in await self._store.namespaces.select():
            scope = Scope(namespace.name)
            for record in await self._store.containers.select(scope, [f'labels."{STATUS}"==running']):
                if not await self.is_running(scope, record.id):
                    last = next(
                        (row.exit for row in rows if (row.namespace, row.id) == (scope.namespace, record.id)), None
                    )
                    await self.restarts.ended(scope, record.id, last.status if last else None, at_start=True)
        await asyncio.to_thread(self._remove_logs, {(row.namespace, row.id) for row in rows})

    def _remove_logs(self, known: set[tuple[str, str]]) -> None:
        """Drop the logs of containers that were gone before this daemon started."""
        for directory in self._logs.glob("*/*"):
            if (directory.parent.name, directory.name) not in known and directory.stat().st_mtime_ns < self._began:
                shutil.rmtree(directory, ignore_errors=True)


def _wanted(fds: tuple[int, int, int], interactive: bool) -> tuple[int, int, int]:
    return fds if interactive else (-1, fds[1], fds[2])
