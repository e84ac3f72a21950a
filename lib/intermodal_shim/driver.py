"""The daemon's side: the `runtimes` contract for every runtime that our shim drives."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self, TypeVar

import msgspec
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from intermodal_api import shim_pb2
from intermodal_api.containerd.task import v3_pb2 as api
from intermodal_api.containerd.types.mount_pb2 import Mount as MountMessage
from intermodal_core.contracts.common import Mount
from intermodal_core.contracts.runtimes import (
    CreateTask,
    Exit,
    ProcessState,
    RuntimeInfo,
    Stats,
    Status,
    Stdio,
    TaskRef,
)
from intermodal_core.errors import AlreadyExists, Cancelled, IntermodalError, Internal, NotFound, Unavailable
from intermodal_core.spawner import Spawner
from intermodal_ttrpc.channel import bind
from intermodal_ttrpc.client import Client

from intermodal_shim.grace import Grace
from intermodal_shim.record import Record
from intermodal_shim.remains import clean
from intermodal_shim.runtime import Options, arguments, find
from intermodal_shim.zygote import Zygote

__all__ = ["FORKED", "ShimRuntime"]

#: The module that a plugin lists in its `forked`.
FORKED = "intermodal_shim.shim"

M = TypeVar("M", bound=Message)

_TASK = "containerd.task.v3.Task"
_SHIM = "dev.intermodal.shim.v1.Shim"
_STATUSES: tuple[Status, ...] = ("unknown", "created", "running", "stopped", "paused", "pausing")
_PROCESS_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/Process"
_RESOURCES_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
_CONNECT_WITHIN = 5.0


class ShimRuntime:
    """A shim for each task, forked from `spawner` where `FORKED` is preloaded.

    `state` is a directory that is gone at reboot: sockets, and the runtime's own state unless `options.root` names another
    place; a namespace is a directory there. `events` is the daemon's ttrpc socket. With `all_events` the shim tells what
    the tasks manager tells, too. To be used on one asyncio loop. Its methods are those of `contracts.runtimes.Runtime`.
    """

    #: The module whose `zygote` makes the shims.
    forked = FORKED

    def __init__(
        self, name: str, spawner: Spawner, state: Path, events: str, options: Options, *, all_events: bool = False
    ) -> None:
        self._name = name
        self._spawner = spawner
        self._state = state
        self._events = events
        self._options = options
        self._all_events = all_events
        self._clients: dict[TaskRef, Client] = {}
        self._pids: dict[TaskRef, int] = {}
        self._creating: set[TaskRef] = set()
        self._zygote = Zygote(spawner, f"{self.forked}:zygote")
        self._grace = Grace()
        self._leaving: dict[TaskRef, asyncio.Future[None]] = {}
        self._stopped = False
        self._info: tuple[float, RuntimeInfo] | None = None

    async def info(self) -> RuntimeInfo:
        """[R6] The binary and its version line, asked anew when the file has changed."""
        binary = find(self._options.binary)
        changed = os.stat(binary).st_mtime
        if self._info is None or self._info[0] != changed or self._info[1].binary != binary:
            done = await self._spawner.run_async([binary, "--version"], timeout=10)
            lines = (done.stdout or done.stderr).decode(errors="replace").splitlines()
            version = lines[0].strip() if lines else ""
            self._info = (changed, RuntimeInfo(name=self._name, binary=binary, version=version))
        return self._info[1]

    def shim_pid(self, task: TaskRef) -> int:
        """The pid of the shim that this driver has started for a task. Raises NotFound."""
        try:
            return self._pids[task]
        except KeyError:
            raise NotFound(f"no shim was started here for task {task.namespace}/{task.id}") from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Let go of all shims; they live on, and what waits for them here ends with Cancelled."""
        self._stopped = True
        if self._leaving:
            await asyncio.wait(self._leaving.values(), timeout=5)
        for client in list(self._clients.values()):
            client.close()
        self._clients.clear()
        self._zygote.close()

    async def create(self, task: TaskRef, request: CreateTask) -> int:
        """[R7] Fork a shim and have it make the container."""
        options = self._task_options(task, request)
        if task in self._clients or task in self._creating:
            raise AlreadyExists(f"task {task.namespace}/{task.id} has a shim already")
        self._creating.add(task)
        self._grace.begin()
        try:
            return await self._create(task, request, options)
        finally:
            self._creating.discard(task)

    async def connect(self, task: TaskRef, bundle: str) -> int:
        """[R8] Find the shim by its socket."""
        try:
            client = await self._connect_to(task)
            answer = await client.call(
                _TASK, "Connect", api.ConnectRequest(id=task.id), api.ConnectResponse, timeout=_CONNECT_WITHIN
            )
        except Unavailable as error:
            raise NotFound(f"task {task.namespace}/{task.id} has no shim any more ({error})") from error
        if not answer.task_pid:
            raise NotFound(f"the shim of task {task.namespace}/{task.id} holds no such container")
        return answer.task_pid

    async def cleanup(self, task: TaskRef, bundle: str) -> Exit:
        """[R9] End the shim, if it lives, and remove what it has left."""
        if self._stopped:  # that a shim does not answer us any more tells nothing
            raise _let_go(task)
        client = self._clients.pop(task, None)
        if client is not None:
            client.close()
        self._pids.pop(task, None)
        default = Record(options=self._options_in(task.namespace))
        record = await asyncio.to_thread(Record.read, bundle, default)
        if not record.pid:
            record = await self._unwritten(task, record)
        pid = await clean(self._spawner, task.id, bundle, record)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._socket(task))
        return Exit(pid=pid, status=137, exited_at=time.time_ns())

    async def _unwritten(self, task: TaskRef, record: Record) -> Record:
        """The record that a crash kept from being written: a shim that was forked just then says itself who it is."""
        try:
            client = await Client.connect(self._socket(task), timeout=_CONNECT_WITHIN)
        except IntermodalError:
            return record
        try:
            request = api.ConnectRequest(id=task.id)
            answer = await client.call(_TASK, "Connect", request, api.ConnectResponse, timeout=_CONNECT_WITHIN)
        except IntermodalError:
            return record
        finally:
            client.close()
        return Record.of(answer.shim_pid, record.options)

    async def start(self, task: TaskRef, exec_id: str = "") -> int:
        """[R10] Start a process."""
        request = api.StartRequest(id=task.id, exec_id=exec_id)
        return (await self._call(task, "Start", request, api.StartResponse)).pid

    async def exec(self, task: TaskRef, exec_id: str, process: bytes, stdio: Stdio) -> None:
        """[R11] Add a process."""
        self._grace.begin()  # the start follows
        request = api.ExecProcessRequest(
            id=task.id,
            exec_id=exec_id,
            terminal=stdio.terminal,
            stdin=stdio.stdin,
            stdout=stdio.stdout,
            stderr=stdio.stderr,
        )
        request.spec.type_url = _PROCESS_TYPE
        request.spec.value = process
        await self._call(task, "Exec", request, Empty)

    async def kill(self, task: TaskRef, signal: int, exec_id: str = "", all: bool = False) -> None:
        """[R12] Send a signal."""
        await self._call(task, "Kill", api.KillRequest(id=task.id, exec_id=exec_id, signal=signal, all=all), Empty)

    async def pause(self, task: TaskRef) -> None:
        """[R13] Freeze."""
        await self._call(task, "Pause", api.PauseRequest(id=task.id), Empty)

    async def resume(self, task: TaskRef) -> None:
        """[R14] Thaw."""
        await self._call(task, "Resume", api.ResumeRequest(id=task.id), Empty)

    async def resize(self, task: TaskRef, width: int, height: int, exec_id: str = "") -> None:
        """[R15] Set a terminal's size."""
        request = api.ResizePtyRequest(id=task.id, exec_id=exec_id, width=width, height=height)
        await self._call(task, "ResizePty", request, Empty)

    async def close_stdin(self, task: TaskRef, exec_id: str = "") -> None:
        """[R16] No more input."""
        await self._call(task, "CloseIO", api.CloseIORequest(id=task.id, exec_id=exec_id, stdin=True), Empty)

    async def attach(self, task: TaskRef, fds: tuple[int, int, int], exec_id: str = "", hold: bool = False) -> None:
        """[R17] Pass descriptors to the shim."""
        stdin, stdout, stderr = (fd >= 0 for fd in fds)
        request = shim_pb2.AttachRequest(
            id=task.id, exec_id=exec_id, stdin=stdin, stdout=stdout, stderr=stderr, hold=hold
        )
        await self._call(task, "Attach", request, Empty, service=_SHIM, fds=[fd for fd in fds if fd >= 0])

    async def reopen_logs(self, task: TaskRef) -> None:
        """Have the task's log files opened by their names again, after somebody renamed them."""
        await self._call(task, "Reopen", shim_pb2.ReopenRequest(id=task.id), Empty, service=_SHIM)

    async def update(self, task: TaskRef, resources: bytes) -> None:
        """[R18] Change limits."""
        request = api.UpdateTaskRequest(id=task.id)
        request.resources.type_url = _RESOURCES_TYPE
        request.resources.value = resources
        await self._call(task, "Update", request, Empty)

    async def pids(self, task: TaskRef) -> list[int]:
        """[R19] All processes."""
        answer = await self._call(task, "Pids", api.PidsRequest(id=task.id), api.PidsResponse)
        return [process.pid for process in answer.processes]

    async def stats(self, task: TaskRef) -> Stats:
        """[R20] Counters."""
        answer = await self._call(task, "Stats", api.StatsRequest(id=task.id), api.StatsResponse)
        return Stats(type_url=answer.stats.type_url, data=answer.stats.value)

    async def checkpoint(self, task: TaskRef, path: str, options_type: str = "", options: bytes = b"") -> None:
        """[R21] Write a checkpoint."""
        request = api.CheckpointTaskRequest(id=task.id, path=path)
        if options_type:
            request.options.type_url = options_type
            request.options.value = options
        await self._call(task, "Checkpoint", request, Empty)

    async def wait(self, task: TaskRef, exec_id: str = "") -> Exit:
        """[R22] A process's end; its pid is 0 where only `state` and `delete` tell it."""
        try:
            answer = await self._call(task, "Wait", api.WaitRequest(id=task.id, exec_id=exec_id), api.WaitResponse)
        except (NotFound, Unavailable) as error:
            if self._stopped:
                raise _let_go(task) from error
            raise
        return Exit(pid=0, status=answer.exit_status, exited_at=answer.exited_at.ToNanoseconds())

    async def review(self, spec: bytes) -> list[str]:
        """[R26] An OCI runtime does what the spec says, or says that it does not."""
        return []

    async def state(self, task: TaskRef, exec_id: str = "") -> ProcessState:
        """[R23] A process's state."""
        answer = await self._call(task, "State", api.StateRequest(id=task.id, exec_id=exec_id), api.StateResponse)
        return ProcessState(
            id=task.id,
            exec_id=exec_id,
            pid=answer.pid,
            status=_STATUSES[answer.status] if answer.status < len(_STATUSES) else "unknown",
            bundle=answer.bundle,
            stdio=Stdio(answer.stdin, answer.stdout, answer.stderr, answer.terminal),
            exit_status=answer.exit_status,
            exited_at=answer.exited_at.ToNanoseconds() if answer.HasField("exited_at") else 0,
        )

    async def processes(self, task: TaskRef) -> list[ProcessState]:
        """[R25] All that the shim holds."""
        request = shim_pb2.ProcessesRequest(id=task.id)
        answer = await self._call(task, "Processes", request, shim_pb2.ProcessesResponse, service=_SHIM)
        return [
            msgspec.structs.replace(await self.state(task, process.exec_id), started=process.started)
            for process in answer.processes
        ]

    async def delete(self, task: TaskRef, exec_id: str = "") -> Exit:
        """[R24] Forget a process; with init's end the shim goes."""
        answer = await self._call(task, "Delete", api.DeleteRequest(id=task.id, exec_id=exec_id), api.DeleteResponse)
        if not exec_id:
            self._dismiss(task)
        return Exit(pid=answer.pid, status=answer.exit_status, exited_at=answer.exited_at.ToNanoseconds())

    async def _call(
        self,
        task: TaskRef,
        method: str,
        request: Message,
        response: type[M],
        *,
        service: str = _TASK,
        fds: Sequence[int] = (),
    ) -> M:
        client = self._clients.get(task)
        if client is None:
            raise NotFound(f"there is no task {task.namespace}/{task.id}")
        if client.closed:
            raise Unavailable(f"the shim of task {task.namespace}/{task.id} is gone")
        return await client.call(service, method, request, response, fds=fds)

    async def _create(self, task: TaskRef, request: CreateTask, options: Options) -> int:
        if (leaving := self._leaving.get(task)) is not None:
            await asyncio.wait([leaving])  # the last one of that name still closes the runtime's books
        path = self._socket(task)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        if os.path.exists(path):
            with contextlib.suppress(NotFound):
                await self.connect(task, request.bundle)
                raise AlreadyExists(f"task {task.namespace}/{task.id} has a shim already")
        log = os.path.join(request.bundle, "shim.log")
        args = arguments(task.namespace, log, self._events, self._all_events, options)
        try:
            with bind(path) as sock:
                # The socket listens already: the shim finds its first call waiting.
                forking = asyncio.ensure_future(self._zygote.fork(args, sock.fileno()))
                creating = asyncio.ensure_future(self._call_create(task, request))
                try:
                    pid = self._pids[task] = await forking
                except BaseException:
                    creating.cancel()
                    forking.cancel()
                    raise
            Record.write(request.bundle, pid, options)
            return await creating
        except IntermodalError as error:
            if isinstance(error, (Unavailable, Internal)):
                await self.cleanup(task, request.bundle)
            else:
                self._dismiss(task)
            raise
        except BaseException:
            await self.cleanup(task, request.bundle)
            raise

    async def _call_create(self, task: TaskRef, request: CreateTask) -> int:
        message = api.CreateTaskRequest(
            id=task.id,
            bundle=request.bundle,
            rootfs=[_mount(mount) for mount in request.rootfs],
            checkpoint=request.checkpoint,
            stdin=request.stdio.stdin,
            stdout=request.stdio.stdout,
            stderr=request.stdio.stderr,
            terminal=request.stdio.terminal,
        )
        if request.options_type:
            message.options.type_url = request.options_type
            message.options.value = request.options
        client = await self._connect_to(task)
        return (await client.call(_TASK, "Create", message, api.CreateTaskResponse)).pid

    async def _connect_to(self, task: TaskRef) -> Client:
        client = self._clients.get(task)
        if client is None or client.closed:
            client = self._clients[task] = await Client.connect(self._socket(task), timeout=_CONNECT_WITHIN)
        return client

    def _dismiss(self, task: TaskRef) -> None:
        """Let the shim end, which holds nothing any more; nobody waits for that."""
        client = self._clients.pop(task, None)
        self._pids.pop(task, None)

        async def leave(client: Client) -> None:
            with contextlib.suppress(IntermodalError):
                await client.call(_TASK, "Shutdown", api.ShutdownRequest(id=task.id), Empty, timeout=_CONNECT_WITHIN)
            client.close()

        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._socket(task))
        if client is None:
            return
        leaving = self._leaving[task] = asyncio.ensure_future(leave(client))
        leaving.add_done_callback(lambda _: self._leaving.pop(task, None))

    def _options_in(self, namespace: str) -> Options:
        return self._options._replace(root=self._root_in(self._options.root, namespace))

    def _root_in(self, root: str, namespace: str) -> str:
        return os.path.join(root or str(self._state / "runc"), namespace)

    def _task_options(self, task: TaskRef, request: CreateTask) -> Options:
        options = self._options_in(task.namespace).merged(request.options_type, request.options, task.namespace)
        return options._replace(binary=find(options.binary))

    def _socket(self, task: TaskRef) -> str:
        name = hashlib.sha256(f"{task.namespace}/{task.id}".encode()).hexdigest()[:20]
        return str(self._state / "s" / name)


def _let_go(task: TaskRef) -> Cancelled:
    return Cancelled(f"the task {task.namespace}/{task.id} was let go of: the daemon, or its runtime, is being stopped")


def _mount(mount: Mount) -> MountMessage:
    return MountMessage(type=mount.type, source=mount.source, target=mount.target, options=mount.options)
