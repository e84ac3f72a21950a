"""Any shim binary, driven by containerd's shim protocol: the `runtimes` contract in its terms."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import stat
import sys
import time
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from intermodal_api.containerd.task import v2_pb2, v3_pb2
from intermodal_api.containerd.types.mount_pb2 import Mount
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
from intermodal_core.errors import (
    AlreadyExists,
    Cancelled,
    FailedPrecondition,
    IntermodalError,
    InvalidArgument,
    NotFound,
    PluginSkipped,
    Unavailable,
    Unimplemented,
)
from intermodal_core.spawner import Spawner
from intermodal_shim.cgroup_remains import remove_cgroups
from intermodal_shim.runtime import meaning
from intermodal_snapshots.mounts import unmount_all
from intermodal_ttrpc.client import Client

from intermodal_shimv2.binary import find
from intermodal_shimv2.bootstrap import Bootstrap
from intermodal_shimv2.options import carried, operators
from intermodal_shimv2.places import Places, Served
from intermodal_shimv2.processes import end_shim
from intermodal_shimv2.streams import StreamsOf, theirs

if TYPE_CHECKING:
    from intermodal_core.plugin import Context

    from intermodal_shimv2.plugin import Config

__all__ = ["ForeignRuntime", "make_runtime"]

M = TypeVar("M", bound=Message)

_STATUSES: tuple[Status, ...] = ("unknown", "created", "running", "stopped", "paused", "pausing")
_PROCESS_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/Process"
_RESOURCES_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
_GOES_WITHIN = 3.0


class _Held:
    """A task's shim, as it is connected to."""

    def __init__(self, places: Places, streams: StreamsOf, served: Served, client: Client, binary: str) -> None:
        self.places = places
        self.streams = streams
        self.served = served
        self.client = client
        self.binary = binary

    @property
    def api(self) -> ModuleType:
        """The messages of the version that is served; the two differ in their package only."""
        return v3_pb2 if self.served.version == 3 else v2_pb2


class ForeignRuntime:
    """Drives the shim binary of `config`. Its methods are those of `contracts.runtimes.Runtime`; for one asyncio loop."""

    def __init__(self, name: str, spawner: Spawner, address: str, events: str, config: Config) -> None:
        publisher = os.path.join(os.path.dirname(sys.executable), "containerd-shim-intermodal-v1")
        self._name = name
        self._spawner = spawner
        self._config = config
        self._options = operators(config.options_type, config.options)
        self._bootstrap = Bootstrap(spawner, address, events, publisher, config.debug, config.bootstrap)
        self._tasks: dict[TaskRef, _Held] = {}
        self._creating: set[TaskRef] = set()
        self._leaving: dict[TaskRef, asyncio.Task[None]] = {}
        self._stopped = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Let go of all shims and workers, which live on."""
        self._stopped = True
        if self._leaving:
            await asyncio.wait(self._leaving.values(), timeout=5)
        for held in self._tasks.values():
            held.client.close()
            held.streams.let_go()

    async def info(self) -> RuntimeInfo:
        """[R6] The shim's path, and what it says of its version."""
        binary = find(self._config.binary)
        return RuntimeInfo(self._name, binary, await self._bootstrap.version(binary))

    async def create(self, task: TaskRef, request: CreateTask) -> int:
        """[R7] Start the shim, and have it make the container."""
        binary = find(self._config.binary)
        if task in self._tasks or task in self._creating:
            raise AlreadyExists(f"task {task.namespace}/{task.id} has a shim already")
        self._creating.add(task)
        try:
            if task in self._leaving:
                await asyncio.wait([self._leaving[task]])
            return await self._create(task, request, binary)
        except BaseException:
            await asyncio.shield(self.cleanup(task, request.bundle))
            raise
        finally:
            self._creating.discard(task)

    async def _create(self, task: TaskRef, request: CreateTask, binary: str) -> int:
        places = Places(request.bundle, task.namespace, task.id)
        os.makedirs(os.path.join(request.bundle, "rootfs"), mode=0o711, exist_ok=True)
        streams = StreamsOf(self._spawner, places)
        try:
            await streams.start()
            await streams.open("", request.stdio)
            options = carried(request.options_type, request.options, self._options)
            places.remember(Served("", 0), 0, binary)
            served = await self._bootstrap.start(binary, task, request.bundle, options, self._config.start_within)
            places.remember(served, 0, binary)  # whoever cleans up knows of it from now on
            held = await self._connect(task, places, streams, served, binary)
            stdio = theirs(places, "", request.stdio)
            message = held.api.CreateTaskRequest(
                id=task.id,
                bundle=request.bundle,
                rootfs=[
                    Mount(type=m.type, source=m.source, target=m.target, options=m.options) for m in request.rootfs
                ],
                checkpoint=request.checkpoint,
                stdin=stdio.stdin,
                stdout=stdio.stdout,
                stderr=stdio.stderr,
                terminal=stdio.terminal,
            )
            if options.type_url:
                message.options.CopyFrom(options)
            with _opened(request.stdio):
                answer = await self._call_held(held, "Create", message, held.api.CreateTaskResponse)
            if not request.checkpoint and not os.path.exists(f"/proc/{answer.pid or -1}"):
                raise FailedPrecondition(
                    f"the shim {binary} says that init is process {answer.pid}, which there is not"
                )
        except BaseException:
            streams.let_go()
            raise
        self._tasks[task] = held
        return int(answer.pid)

    async def connect(self, task: TaskRef, bundle: str) -> int:
        """[R8] By what the bundle keeps."""
        places = Places(bundle, task.namespace, task.id)
        served = places.served()
        if served is None:
            raise NotFound(f"task {task.namespace}/{task.id} had no shim yet")
        streams = StreamsOf(self._spawner, places)
        try:
            held = await self._connect(task, places, streams, served, places.shim()[1])
            state = await self._call_held(
                held, "State", held.api.StateRequest(id=task.id), held.api.StateResponse, timeout=5.0
            )
        except (Unavailable, FailedPrecondition) as error:
            raise NotFound(f"task {task.namespace}/{task.id} has no shim any more ({error})") from error
        await streams.take_up()
        self._tasks[task] = held
        return int(state.pid)

    async def _connect(self, task: TaskRef, places: Places, streams: StreamsOf, served: Served, binary: str) -> _Held:
        """Connected, in the version that it serves, whatever it said. Raises FailedPrecondition for one that serves none."""
        try:
            client = await Client.connect(served.path, self._config.start_within)
        except Unavailable as error:
            raise FailedPrecondition(
                f"the shim {binary} said that it serves {served.path}, and does not: {error}"
            ) from error
        for version in (served.version, 5 - served.version):
            held = _Held(places, streams, Served(served.path, version), client, binary)
            request = held.api.ConnectRequest(id=task.id)
            try:
                answer = await self._call_held(
                    held, "Connect", request, held.api.ConnectResponse, timeout=self._config.start_within
                )
            except Unimplemented:
                continue
            except NotFound:  # of one that wants the container first
                return held
            except IntermodalError as error:
                client.close()
                raise FailedPrecondition(f"the shim {binary} does not answer: {error}") from error
            places.remember(held.served, answer.shim_pid, binary)
            return held
        client.close()
        raise FailedPrecondition(f"the shim {binary} serves neither version 2 nor 3 of the task API")

    async def cleanup(self, task: TaskRef, bundle: str) -> Exit:
        """[R9] The binary's own `delete`, and then whatever is left."""
        if self._stopped:
            raise _let_go(task)
        held = self._tasks.pop(task, None)
        if held is not None:
            held.client.close()
        places = Places(bundle, task.namespace, task.id)
        await (held.streams if held else StreamsOf(self._spawner, places)).end()
        pid, binary = await asyncio.to_thread(places.shim)
        told = None
        if binary:
            shared = self._shared(task, places.served())
            if not shared:
                await asyncio.to_thread(end_shim, pid, binary, 0.0)
                _remove_socket(places.served())
            told = await self._bootstrap.delete(binary, task, bundle)
        await asyncio.to_thread(_remove_rest, task.id, bundle)
        now = time.time_ns()
        if told is None or not told.HasField("exited_at"):
            return Exit(told.pid if told else 0, 137, now)
        return Exit(told.pid, told.exit_status or 137, told.exited_at.ToNanoseconds() or now)

    def _shared(self, task: TaskRef, served: Served | None) -> bool:
        """Whether another task's shim is the same process: it said so by giving the same address."""
        return served is not None and any(
            other != task and held.served.path == served.path for other, held in self._tasks.items()
        )

    async def start(self, task: TaskRef, exec_id: str = "") -> int:
        """[R10] Start a process."""
        held = self._held(task)
        request = held.api.StartRequest(id=task.id, exec_id=exec_id)
        with _opened(held.streams.of(exec_id) if exec_id else None):
            return int((await self._call_held(held, "Start", request, held.api.StartResponse)).pid)

    async def exec(self, task: TaskRef, exec_id: str, process: bytes, stdio: Stdio) -> None:
        """[R11] Add a process."""
        held = self._held(task)
        state = await self.state(task)
        if state.status != "running":
            raise FailedPrecondition(
                f"task {task.namespace}/{task.id} is {state.status}: nothing can be executed in it"
            )
        if held.streams.of(exec_id) is not None:
            raise AlreadyExists(f"task {task.namespace}/{task.id} has a process {exec_id} already")
        await held.streams.open(exec_id, stdio)
        given = theirs(held.places, exec_id, stdio)
        request = held.api.ExecProcessRequest(
            id=task.id,
            exec_id=exec_id,
            terminal=given.terminal,
            stdin=given.stdin,
            stdout=given.stdout,
            stderr=given.stderr,
        )
        request.spec.type_url, request.spec.value = _PROCESS_TYPE, process
        try:
            await self._call_held(held, "Exec", request, Empty)
        except BaseException:
            await asyncio.shield(held.streams.drain(exec_id))
            raise

    async def kill(self, task: TaskRef, signal: int, exec_id: str = "", all: bool = False) -> None:
        """[R12] Send a signal."""
        await self._ask(task, "Kill", Empty, exec_id=exec_id, signal=signal, all=all)

    async def pause(self, task: TaskRef) -> None:
        """[R13] Freeze."""
        await self._ask(task, "Pause", Empty)

    async def resume(self, task: TaskRef) -> None:
        """[R14] Thaw."""
        await self._ask(task, "Resume", Empty)

    async def resize(self, task: TaskRef, width: int, height: int, exec_id: str = "") -> None:
        """[R15] Set a terminal's size."""
        await self._ask(task, "ResizePty", Empty, exec_id=exec_id, width=width, height=height)

    async def close_stdin(self, task: TaskRef, exec_id: str = "") -> None:
        """[R16] Ours first, so that what was taken is in the FIFO, then the shim's."""
        await self._held(task).streams.close_stdin(exec_id)
        await self._ask(task, "CloseIO", Empty, exec_id=exec_id, stdin=True)

    async def attach(self, task: TaskRef, fds: tuple[int, int, int], exec_id: str = "", hold: bool = False) -> None:
        """[R17] Pass descriptors to the worker."""
        await self._held(task).streams.attach(fds, exec_id, hold)

    async def update(self, task: TaskRef, resources: bytes) -> None:
        """[R18] Change limits."""
        held = self._held(task)
        request = held.api.UpdateTaskRequest(id=task.id)
        request.resources.type_url, request.resources.value = _RESOURCES_TYPE, resources
        await self._call_held(held, "Update", request, Empty)

    async def pids(self, task: TaskRef) -> list[int]:
        """[R19] As the shim tells them."""
        answer = await self._ask(task, "Pids", "PidsResponse")
        return [process.pid for process in answer.processes]

    async def stats(self, task: TaskRef) -> Stats:
        """[R20] As the shim counts. Raises Unavailable where it tells nothing."""
        stats = (await self._ask(task, "Stats", "StatsResponse")).stats
        if not stats.type_url:
            raise Unavailable(f"the shim of task {task.namespace}/{task.id} tells no counters")
        return Stats(stats.type_url.rpartition("/")[2], stats.value, "shim")

    async def checkpoint(self, task: TaskRef, path: str, options_type: str = "", options: bytes = b"") -> None:
        """[R21] Write a checkpoint."""
        held = self._held(task)
        request = held.api.CheckpointTaskRequest(id=task.id, path=path)
        if options_type:
            request.options.type_url, request.options.value = options_type, options
        there = os.path.exists(path)
        try:
            await self._call_held(held, "Checkpoint", request, Empty, timeout=None)
        except NotFound as error:
            if not there:
                await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)
            if "criu" not in str(error).lower():
                raise
            raise Unimplemented(
                f"task {task.namespace}/{task.id} goes on unchanged, checkpoints need CRIU: {error}"
            ) from error

    async def wait(self, task: TaskRef, exec_id: str = "") -> Exit:
        """[R22] A process's end."""
        held = self._held(task)
        request = held.api.WaitRequest(id=task.id, exec_id=exec_id)
        try:
            answer = await self._call_held(held, "Wait", request, held.api.WaitResponse, timeout=None)
        except (NotFound, Unavailable) as error:
            if self._stopped:
                raise _let_go(task) from error
            raise
        return Exit(0, answer.exit_status, answer.exited_at.ToNanoseconds() or time.time_ns())

    async def state(self, task: TaskRef, exec_id: str = "") -> ProcessState:
        """[R23] As the shim tells it, with the streams that were asked for."""
        held = self._held(task)
        answer = await self._ask(task, "State", "StateResponse", exec_id=exec_id)
        status: Status = _STATUSES[answer.status] if answer.status < len(_STATUSES) else "unknown"
        ended = status == "stopped"
        return ProcessState(
            id=task.id,
            exec_id=exec_id,
            pid=answer.pid,
            status=status,
            bundle=held.places.bundle,
            stdio=held.streams.of(exec_id) or Stdio(),
            exit_status=answer.exit_status if ended else 0,
            exited_at=answer.exited_at.ToNanoseconds() if ended and answer.HasField("exited_at") else 0,
        )

    async def delete(self, task: TaskRef, exec_id: str = "") -> Exit:
        """[R24] The shim forgets the process while the worker drains its output; with init's end both go."""
        held = self._held(task)
        state = await self.state(task, exec_id)
        if state.status in ("running", "paused", "pausing"):
            raise FailedPrecondition(
                f"process {exec_id or 'init'} of {task.namespace}/{task.id} still runs: kill it first"
            )
        if state.status == "created" and not exec_id:
            await self.kill(task, signal.SIGKILL)
            await self.wait(task)
        draining = asyncio.ensure_future(held.streams.drain(exec_id))
        try:
            answer = await self._ask(task, "Delete", "DeleteResponse", exec_id=exec_id)
        finally:
            await asyncio.wait([draining])
        if not exec_id:
            await asyncio.to_thread(unmount_all, os.path.join(held.places.bundle, "rootfs"))
            self._dismiss(task, held)
        return Exit(answer.pid or state.pid, answer.exit_status, answer.exited_at.ToNanoseconds() or time.time_ns())

    async def review(self, spec: bytes) -> list[str]:
        """[R26] The protocol has no such question."""
        return [f"what {os.path.basename(find(self._config.binary))} makes of the spec is not known before it is run"]

    async def processes(self, task: TaskRef) -> list[ProcessState]:
        """[R25] Not declared: the protocol has no such call."""
        raise Unimplemented(f"shims do not list their processes, among them that of {task.namespace}/{task.id}")

    def _dismiss(self, task: TaskRef, held: _Held) -> None:
        """Let worker and shim end, if nobody shares it; nobody waits for that."""
        del self._tasks[task]
        shared = self._shared(task, held.served)

        async def leave() -> None:
            await held.streams.end()
            if not shared:
                with contextlib.suppress(IntermodalError):
                    request = held.api.ShutdownRequest(id=task.id)
                    await self._call_held(held, "Shutdown", request, Empty, timeout=_GOES_WITHIN)
                pid, binary = held.places.shim()
                await asyncio.to_thread(end_shim, pid, binary, _GOES_WITHIN)
                _remove_socket(held.served)
            held.client.close()
            await asyncio.to_thread(remove_cgroups, task.id, held.places.bundle)

        leaving = self._leaving[task] = asyncio.ensure_future(leave())
        leaving.add_done_callback(lambda _: self._leaving.pop(task, None))

    def _held(self, task: TaskRef) -> _Held:
        held = self._tasks.get(task)
        if held is None:
            raise NotFound(f"there is no task {task.namespace}/{task.id}")
        return held

    async def _ask(self, task: TaskRef, method: str, response: Any, **fields: Any) -> Any:
        held = self._held(task)
        request = getattr(held.api, f"{method}Request")(id=task.id, **fields)
        return await self._call_held(
            held, method, request, response if response is Empty else getattr(held.api, response)
        )

    async def _call_held(
        self, held: _Held, method: str, request: Message, response: type[M], timeout: float | None = 0.0
    ) -> M:
        """`timeout` 0 is the config's, None is none."""
        timeout = self._config.call_within if timeout == 0 else timeout
        service = f"containerd.task.v{held.served.version}.Task"
        metadata = {"containerd-namespace-ttrpc": held.places.namespace}
        try:
            return await held.client.call(service, method, request, response, timeout=timeout, metadata=metadata)
        except IntermodalError as error:
            if type(error) is not IntermodalError:
                raise
            # Shims pass on what their runtime said, without a code.
            default = InvalidArgument if method == "Create" else IntermodalError
            raise meaning(str(error), default)(f"{os.path.basename(held.binary)}: {error}") from error


@contextlib.contextmanager
def _opened(stdio: Stdio | None) -> Iterator[None]:
    """The client's own FIFOs held open: shims wait for somebody to read before they go on, who need not come."""
    held = []
    for path in (stdio.stdout, stdio.stderr) if stdio else ():
        with contextlib.suppress(OSError):
            if stat.S_ISFIFO(os.stat(path).st_mode):
                held.append(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
    try:
        yield
    finally:
        for fd in held:
            os.close(fd)


def _remove_socket(served: Served | None) -> None:
    """What only a socket may be: a shim may have said anything."""
    with contextlib.suppress(OSError):
        if served is not None and stat.S_ISSOCK(os.stat(served.path).st_mode):
            os.unlink(served.path)


def _remove_rest(id: str, bundle: str) -> None:
    unmount_all(os.path.join(bundle, "rootfs"))
    remove_cgroups(id, bundle)


def _let_go(task: TaskRef) -> Cancelled:
    return Cancelled(f"the task {task.namespace}/{task.id} was let go of: the daemon, or its runtime, is being stopped")


def make_runtime(context: Context[Config]) -> ForeignRuntime:
    """The runtime for a plugin's context. Raises PluginSkipped where there is no such binary."""
    try:
        binary = find(context.config.binary)
    except NotFound as error:
        raise PluginSkipped(str(error), "install the shim, or set `binary` to its absolute path") from error
    context.log.info("containers run under the shim %s", binary)
    return ForeignRuntime(context.name, context.spawner, context.address, f"{context.address}.ttrpc", context.config)
