"""The running side of a container: its task, made, asked and ended."""

import os
from typing import Final

from intermodal_api.containerd.services import containers_pb2, snapshots_pb2, tasks_pb2
from intermodal_api.containerd.types import task_pb2
from intermodal_core.errors import FailedPrecondition, IntermodalError, NotFound

from intermodal import _api
from intermodal._async.channel import AsyncChannel
from intermodal._creation import STDIN_LABEL
from intermodal._stdio import Stdio

LOG: Final = "log"
END: Final = 15.0
"""Seconds that a killed task has for ending."""

_STATUSES: Final[dict[int, str]] = {
    task_pb2.CREATED: "created",
    task_pb2.RUNNING: "running",
    task_pb2.STOPPED: "exited",
    task_pb2.PAUSED: "paused",
    task_pb2.PAUSING: "paused",
}


def status_of(process: task_pb2.Process | None) -> str:
    """A task's state in the client's words; a container without one is "created"."""
    return "created" if process is None else _STATUSES.get(process.status, "unknown")


async def get_task(channel: AsyncChannel, container_id: str) -> task_pb2.Process | None:
    """The task's state, or None where the container has none."""
    try:
        return (await channel.call(_api.TASK_GET, tasks_pb2.GetRequest(container_id=container_id))).process
    except NotFound:
        return None


async def create_task(
    channel: AsyncChannel, container: containers_pb2.Container, terminal: bool, stdio: Stdio | None
) -> None:
    """Make the task, with `stdio` attached, or else with its output in the container's log.

    A task with a log needs no client to live on. With a terminal and no `stdio` this client fills the log, for as
    long as it is open: containerd's shim writes a terminal to FIFOs only.
    """
    if stdio is None and terminal:
        directory = channel.io.of(channel.namespace, container.id, make=True)
        log = os.path.join(directory, LOG)
        stdio = channel.open_stdio(stdin=keeps_stdin(container), terminal=True, limit=None, log=log)
        channel.drained[f"{channel.namespace}/{container.id}"] = stdio
    paths = _logged(channel, container) if stdio is None else (stdio.stdin_path, stdio.stdout_path, stdio.stderr_path)
    try:
        mounts = snapshots_pb2.MountsRequest(snapshotter=container.snapshotter, key=container.snapshot_key)
        request = tasks_pb2.CreateTaskRequest(
            container_id=container.id,
            rootfs=(await channel.call(_api.SNAPSHOT_MOUNTS, mounts)).mounts if container.snapshot_key else [],
            stdin=paths[0],
            stdout=paths[1],
            stderr=paths[2],
            terminal=terminal,
        )
        await channel.call(_api.TASK_CREATE, request)
    except BaseException:
        if stdio is not None:
            stdio.close()
        raise
    if stdio is not None:
        stdio.connected()


def keeps_stdin(container: containers_pb2.Container) -> bool:
    """Whether the container's standard input stays open."""
    return container.labels.get(STDIN_LABEL) != "none"


def _logged(channel: AsyncChannel, container: containers_pb2.Container) -> tuple[str, str, str]:
    directory = channel.io.of(channel.namespace, container.id, make=True)
    stdin = ""
    if keeps_stdin(container):
        # The daemon's side holds a writer of its own until CloseIO, so that this needs nobody to stay open.
        stdin = os.path.join(directory, "stdin")
        if os.path.exists(stdin):
            os.unlink(stdin)
        os.mkfifo(stdin, 0o600)
    log = "file://" + os.path.join(directory, LOG)
    return stdin, log, log


async def end_task(channel: AsyncChannel, container_id: str, *, force: bool) -> None:
    """Delete the task, if there is one; a live one is killed first with `force`, else FailedPrecondition raised."""
    task = await get_task(channel, container_id)
    if task is None:
        return
    if task.status in (task_pb2.RUNNING, task_pb2.PAUSED, task_pb2.PAUSING):
        if not force:
            raise FailedPrecondition(
                f"The container {container_id} is {status_of(task)}; stop it first, or use force=True"
            )
        await _kill_task(channel, container_id, task)
    try:
        await channel.call(_api.TASK_DELETE, tasks_pb2.DeleteTaskRequest(container_id=container_id))
    except NotFound:
        pass
    forget_streams(channel, container_id)


def forget_streams(channel: AsyncChannel, container_id: str) -> None:
    """Close what this client drained for the container's task."""
    stdio = channel.drained.pop(f"{channel.namespace}/{container_id}", None)
    if stdio is not None:
        stdio.close()


async def _kill_task(channel: AsyncChannel, container_id: str, task: task_pb2.Process) -> None:
    kill = tasks_pb2.KillRequest(container_id=container_id, signal=9, all=True)
    try:
        await channel.call(_api.TASK_KILL, kill)
    except NotFound:
        pass  # it ended in between
    if task.status != task_pb2.RUNNING:
        try:
            # A frozen process takes no signal; some runtimes thaw it on a kill themselves, and then refuse this.
            await channel.call(_api.TASK_RESUME, tasks_pb2.ResumeTaskRequest(container_id=container_id))
        except IntermodalError:
            pass
    await channel.call(_api.TASK_WAIT, tasks_pb2.WaitRequest(container_id=container_id), timeout=END)
