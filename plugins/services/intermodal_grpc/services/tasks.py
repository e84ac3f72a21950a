"""containerd.services.tasks.v1.Tasks."""

from __future__ import annotations

from google.protobuf.any_pb2 import Any
from google.protobuf.empty_pb2 import Empty
from intermodal_api.containerd.services import tasks_pb2 as pb
from intermodal_api.containerd.types import metrics_pb2, task_pb2
from intermodal_core.contracts.managers.tasks import TaskCreate, Tasks
from intermodal_core.contracts.runtimes import Exit, ProcessState, Stdio
from intermodal_wire.calls import Call, Service
from intermodal_wire.values import any_from, mounts_from, timestamp

__all__ = ["TasksService"]

_STATUS = {
    "unknown": task_pb2.UNKNOWN,
    "created": task_pb2.CREATED,
    "running": task_pb2.RUNNING,
    "stopped": task_pb2.STOPPED,
    "paused": task_pb2.PAUSED,
    "pausing": task_pb2.PAUSING,
}


class TasksService(Service):
    """Translates to the tasks manager."""

    descriptor = pb.DESCRIPTOR.services_by_name["Tasks"]

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks

    async def create(self, request: pb.CreateTaskRequest, call: Call) -> pb.CreateTaskResponse:
        """Create."""
        pid = await self._tasks.create(
            call.scope,
            TaskCreate(
                request.container_id,
                mounts_from(request.rootfs),
                Stdio(request.stdin, request.stdout, request.stderr, request.terminal),
                any_from(request.options),
                request.runtime_path,
            ),
        )
        return pb.CreateTaskResponse(container_id=request.container_id, pid=pid)

    async def start(self, request: pb.StartRequest, call: Call) -> pb.StartResponse:
        """Start."""
        return pb.StartResponse(pid=await self._tasks.start(call.scope, request.container_id, request.exec_id))

    async def delete(self, request: pb.DeleteTaskRequest, call: Call) -> pb.DeleteResponse:
        """Delete."""
        return _deleted(request.container_id, await self._tasks.delete(call.scope, request.container_id))

    async def delete_process(self, request: pb.DeleteProcessRequest, call: Call) -> pb.DeleteResponse:
        """DeleteProcess."""
        ended = await self._tasks.delete(call.scope, request.container_id, request.exec_id)
        return _deleted(request.exec_id, ended)

    async def get(self, request: pb.GetRequest, call: Call) -> pb.GetResponse:
        """Get."""
        state = await self._tasks.get(call.scope, request.container_id, request.exec_id)
        return pb.GetResponse(process=_process(state))

    async def list(self, request: pb.ListTasksRequest, call: Call) -> pb.ListTasksResponse:
        """List."""
        return pb.ListTasksResponse(tasks=map(_process, await self._tasks.select(call.scope)))

    async def kill(self, request: pb.KillRequest, call: Call) -> Empty:
        """Kill."""
        await self._tasks.kill(call.scope, request.container_id, request.signal, request.exec_id, request.all)
        return Empty()

    async def exec(self, request: pb.ExecProcessRequest, call: Call) -> Empty:
        """Exec."""
        stdio = Stdio(request.stdin, request.stdout, request.stderr, request.terminal)
        await self._tasks.exec(call.scope, request.container_id, request.exec_id, request.spec.value, stdio)
        return Empty()

    async def resize_pty(self, request: pb.ResizePtyRequest, call: Call) -> Empty:
        """ResizePty."""
        await self._tasks.resize(call.scope, request.container_id, request.width, request.height, request.exec_id)
        return Empty()

    async def close_io(self, request: pb.CloseIORequest, call: Call) -> Empty:
        """CloseIO."""
        if request.stdin:
            await self._tasks.close_stdin(call.scope, request.container_id, request.exec_id)
        return Empty()

    async def pause(self, request: pb.PauseTaskRequest, call: Call) -> Empty:
        """Pause."""
        await self._tasks.pause(call.scope, request.container_id)
        return Empty()

    async def resume(self, request: pb.ResumeTaskRequest, call: Call) -> Empty:
        """Resume."""
        await self._tasks.resume(call.scope, request.container_id)
        return Empty()

    async def list_pids(self, request: pb.ListPidsRequest, call: Call) -> pb.ListPidsResponse:
        """ListPids."""
        pids = await self._tasks.pids(call.scope, request.container_id)
        return pb.ListPidsResponse(processes=[task_pb2.ProcessInfo(pid=pid) for pid in pids])

    async def update(self, request: pb.UpdateTaskRequest, call: Call) -> Empty:
        """Update."""
        await self._tasks.update(call.scope, request.container_id, request.resources.value)
        return Empty()

    async def metrics(self, request: pb.MetricsRequest, call: Call) -> pb.MetricsResponse:
        """Metrics."""
        found = await self._tasks.metrics(call.scope, request.filters)
        return pb.MetricsResponse(
            metrics=[
                metrics_pb2.Metric(
                    timestamp=timestamp(each.timestamp), id=each.id, data=Any(type_url=each.type_url, value=each.data)
                )
                for each in found
            ]
        )

    async def wait(self, request: pb.WaitRequest, call: Call) -> pb.WaitResponse:
        """Wait."""
        ended = await self._tasks.wait(call.scope, request.container_id, request.exec_id)
        return pb.WaitResponse(exit_status=ended.status, exited_at=timestamp(ended.exited_at))


def _deleted(id: str, ended: Exit) -> pb.DeleteResponse:
    return pb.DeleteResponse(id=id, pid=ended.pid, exit_status=ended.status, exited_at=timestamp(ended.exited_at))


def _process(state: ProcessState) -> task_pb2.Process:
    return task_pb2.Process(
        container_id=state.id,
        id=state.exec_id or state.id,
        pid=state.pid,
        status=_STATUS[state.status],
        stdin=state.stdio.stdin,
        stdout=state.stdio.stdout,
        stderr=state.stdio.stderr,
        terminal=state.stdio.terminal,
        exit_status=state.exit_status,
        exited_at=timestamp(state.exited_at),
    )
