"""The shim's ttrpc services: containerd's task API, versions 2 and 3, and our own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, Protocol

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from intermodal_api import shim_pb2
from intermodal_api.containerd.runtime import runc_options_pb2 as runc
from intermodal_api.containerd.task import v2_pb2, v3_pb2
from intermodal_core.contracts.common import Mount
from intermodal_core.errors import IntermodalError, from_os_error
from intermodal_ttrpc.dispatch import Call, Services

from intermodal_shim.attaching import attach
from intermodal_shim.container import Answer, Container
from intermodal_shim.process import STOPPED, Process
from intermodal_shim.runtime import Options
from intermodal_shim.stdio import Streams

__all__ = ["SERVICES", "Shim", "release", "services"]

_CHECKPOINT_OPTIONS = runc.CheckpointOptions.DESCRIPTOR.full_name


class Shim(Protocol):
    """What the services need of the shim."""

    options: Options
    namespace: str
    pid: int

    def container(self, id: str) -> Container:
        """Raises NotFound."""

    def add(self, id: str, bundle: str, streams: Streams, options: Options) -> Container:
        """Raises AlreadyExists."""

    def when_free(self, id: str, then: Callable[[], object]) -> None:
        """Call `then` once nothing of the last container of that name is left; now, where there is none."""

    def task_pid(self, id: str) -> int:
        """Of the container's init; 0 for none."""

    def rest_soon(self) -> None:
        """A process was started: soon nothing may be left to do."""

    def shutdown(self, answer: Callable[[], object]) -> None:
        """End, if there is no container, and answer when that is decided."""


def services(shim: Shim) -> Services:
    """All that a shim serves. A process has one shim: the tables are made before the fork, and shared."""
    _TASKS.shim = shim
    return SERVICES


def release() -> None:
    """Forget the shim that `services` was last called with."""
    del _TASKS.shim


def _versioned(task: TaskService, messages: ModuleType) -> dict[str, tuple[type[Message], Callable[..., Any]]]:
    """The methods for one version's messages, which differ in their package only."""
    methods: dict[str, tuple[type[Message], Callable[..., Any]]] = {}
    for method in messages.DESCRIPTOR.services_by_name["Task"].methods:
        handler = getattr(task, _snake(method.name))
        response = getattr(messages, method.output_type.name, Empty)
        methods[method.name] = (getattr(messages, method.input_type.name), _with_response(handler, response))
    return methods


def _with_response(handler: Callable[..., Any], response: type[Message]) -> Callable[[Message, Call], Any]:
    return lambda request, call: handler(request, call, response)


def _snake(name: str) -> str:
    return {"CloseIO": "close_io", "ResizePty": "resize_pty"}.get(name, name.lower())


class TaskService:
    """One method a call: `handler(request, call, response type)`; None is an answer to come."""

    shim: Shim

    def state(self, request: Any, call: Call, response: Any) -> Message:
        """A process's state."""
        container = self.shim.container(request.id)
        process = container.process(request.exec_id)
        streams = process.streams
        answer = response(
            id=request.id,
            exec_id=request.exec_id,
            bundle=container.bundle,
            pid=process.pid,
            status=process.status,
            stdin=streams.stdin,
            stdout=streams.stdout,
            stderr=streams.stderr,
            terminal=streams.terminal,
        )
        if process.status == STOPPED:
            answer.exit_status = process.exit_status
            answer.exited_at.FromNanoseconds(process.exited_at)
        return answer  # type: ignore[no-any-return]

    def create(self, request: Any, call: Call, response: Any) -> None:
        """Make a container."""
        options = self.shim.options.merged(request.options.type_url, request.options.value, self.shim.namespace)
        mounts = [Mount(m.type, m.source, tuple(m.options), m.target) for m in request.rootfs]
        container = self.shim.add(request.id, request.bundle, _streams(request), options)
        answer = _then(call, lambda: response(pid=container.init.pid))
        self.shim.when_free(request.id, lambda: container.create(mounts, answer, request.checkpoint))

    def start(self, request: Any, call: Call, response: Any) -> None:
        """Start a process."""
        container = self.shim.container(request.id)
        process = container.process(request.exec_id)
        container.start(request.exec_id, _then(call, lambda: response(pid=process.pid)))
        self.shim.rest_soon()

    def delete(self, request: Any, call: Call, response: Any) -> None:
        """Forget a process that has ended."""
        container = self.shim.container(request.id)
        process = container.process(request.exec_id)

        def answer() -> Message:
            message = response(pid=process.pid, exit_status=process.exit_status)
            message.exited_at.FromNanoseconds(process.exited_at)
            return message  # type: ignore[no-any-return]

        container.delete(request.exec_id, _then(call, answer))

    def wait(self, request: Any, call: Call, response: Any) -> None:
        """Answer at a process's end."""
        process = self.shim.container(request.id).process(request.exec_id)
        process.when_ended(partial(_tell_end, process, call, response))  # no closure: a shim at rest holds it

    def kill(self, request: Any, call: Call, response: Any) -> None:
        """Send a signal."""
        container = self.shim.container(request.id)
        if request.all:
            container.kill_all(request.signal, _then(call, response))
        else:
            container.kill(request.exec_id, request.signal, _then(call, response))

    def exec(self, request: Any, call: Call, response: Any) -> Message:
        """Add a process."""
        self.shim.container(request.id).exec(request.exec_id, _streams(request), request.spec.value)
        return response()  # type: ignore[no-any-return]

    def pids(self, request: Any, call: Call, response: Any) -> Message:
        """All processes, each with its exec id where it is one."""
        container = self.shim.container(request.id)
        known = {process.pid: exec_id for exec_id, process in container.execs.items()}
        answer = response()
        for pid in container.pids():
            entry = answer.processes.add(pid=pid)
            if pid in known:
                entry.info.type_url = runc.ProcessDetails.DESCRIPTOR.full_name
                entry.info.value = runc.ProcessDetails(exec_id=known[pid]).SerializeToString()
        return answer  # type: ignore[no-any-return]

    def pause(self, request: Any, call: Call, response: Any) -> None:
        """Freeze."""
        self.shim.container(request.id).pause(_then(call, response))

    def resume(self, request: Any, call: Call, response: Any) -> None:
        """Thaw."""
        self.shim.container(request.id).resume(_then(call, response))

    def update(self, request: Any, call: Call, response: Any) -> None:
        """Change limits."""
        self.shim.container(request.id).update(request.resources.value, _then(call, response))

    def checkpoint(self, request: Any, call: Call, response: Any) -> None:
        """Write a checkpoint."""
        options = runc.CheckpointOptions()
        if request.options.type_url.rpartition("/")[2] == _CHECKPOINT_OPTIONS:
            options.MergeFromString(request.options.value)
        self.shim.container(request.id).checkpoint(request.path, options, _then(call, response))

    def resize_pty(self, request: Any, call: Call, response: Any) -> Message:
        """Set a terminal's size."""
        process = self.shim.container(request.id).process(request.exec_id)
        try:
            process.streaming().resize(request.width, request.height)
        except OSError as error:
            raise from_os_error(error, "resizing the terminal") from error
        return response()  # type: ignore[no-any-return]

    def close_io(self, request: Any, call: Call, response: Any) -> Message:
        """No more input will come."""
        process = self.shim.container(request.id).process(request.exec_id)
        if request.stdin and process.stdio is not None:
            process.stdio.close_stdin()
        return response()  # type: ignore[no-any-return]

    def stats(self, request: Any, call: Call, response: Any) -> None:
        """Counters."""

        def counted(error: IntermodalError | None, metrics: Message | None) -> None:
            if error is not None:
                call.fail(error)
                return
            assert metrics is not None
            answer = response()
            answer.stats.type_url = metrics.DESCRIPTOR.full_name
            answer.stats.value = metrics.SerializeToString()
            call.reply(answer)

        self.shim.container(request.id).stats(counted)

    def connect(self, request: Any, call: Call, response: Any) -> Message:
        """Who serves."""
        return response(shim_pid=self.shim.pid, task_pid=self.shim.task_pid(request.id))  # type: ignore[no-any-return]

    def shutdown(self, request: Any, call: Call, response: Any) -> None:
        """End, if no container is left."""

        def answer() -> None:
            if call.connected:
                call.reply(response())

        self.shim.shutdown(answer)

    def attach(self, request: shim_pb2.AttachRequest, call: Call) -> Message:
        """Add a source and sinks to a process's streams."""
        return attach(self.shim.container(request.id).process(request.exec_id).streaming(), request, call)

    def processes(self, request: shim_pb2.ProcessesRequest, call: Call) -> Message:
        """Init and the exec processes."""
        container = self.shim.container(request.id)
        answer = shim_pb2.ProcessesResponse()
        for process in (container.init, *container.execs.values()):
            answer.processes.add(exec_id=process.exec_id, started=process.started)
        return answer

    def reopen(self, request: shim_pb2.ReopenRequest, call: Call) -> Message:
        """Open log files by their names again."""
        self.shim.container(request.id).reopen_logs()
        return Empty()


def _then(call: Call, answer: Callable[[], Message]) -> Answer:
    """Answers the call with the error, or else with what `answer` makes."""

    def done(error: IntermodalError | None) -> None:
        if error is not None:
            call.fail(error)
        else:
            call.reply(answer())

    return done


def _tell_end(process: Process, call: Call, response: Any) -> None:
    if call.connected:
        message = response(exit_status=process.exit_status)
        message.exited_at.FromNanoseconds(process.exited_at)
        call.reply(message)


def _streams(request: Any) -> Streams:
    return Streams(request.stdin, request.stdout, request.stderr, request.terminal)


_TASKS = TaskService()
SERVICES: Services = {
    "containerd.task.v3.Task": _versioned(_TASKS, v3_pb2),
    "containerd.task.v2.Task": _versioned(_TASKS, v2_pb2),
    "dev.intermodal.shim.v1.Shim": {
        "Attach": (shim_pb2.AttachRequest, _TASKS.attach),
        "Reopen": (shim_pb2.ReopenRequest, _TASKS.reopen),
        "Processes": (shim_pb2.ProcessesRequest, _TASKS.processes),
    },
}
