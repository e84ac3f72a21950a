"""One container."""

import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from google.protobuf.field_mask_pb2 import FieldMask
from intermodal_api.containerd.services import containers_pb2, snapshots_pb2, tasks_pb2
from intermodal_api.containerd.types import task_pb2
from intermodal_core.errors import DeadlineExceeded, FailedPrecondition, NotFound

from intermodal import _api, _signals
from intermodal._async.channel import AsyncChannel
from intermodal._async.executing import READ_AHEAD, AsyncExec
from intermodal._async.process import AsyncProcess
from intermodal._async.tasks import LOG, create_task, end_task, get_task, keeps_stdin, status_of
from intermodal._creation import STOP_SIGNAL_LABEL
from intermodal._decoding import moment, stats
from intermodal._models import Stats
from intermodal._waiting import sleep_async

_LOG_POLL: Final = 0.1
_PIECE: Final = 1 << 16


class AsyncContainer:
    """A container. Its fields are as of when it was fetched, or of the last `reload`."""

    def __init__(self, channel: AsyncChannel, record: containers_pb2.Container, task: task_pb2.Process | None) -> None:
        self._channel, self._record, self._task = channel, record, task
        self.exec = AsyncExec(channel, record.id)
        """Runs further commands in it: `container.exec.run([...])`."""

    @property
    def id(self) -> str:
        """Its name, unique in its namespace."""
        return self._record.id

    @property
    def name(self) -> str:
        """The same as `id`."""
        return self._record.id

    @property
    def namespace(self) -> str:
        """The namespace that it is in."""
        return self._channel.namespace

    @property
    def image(self) -> str:
        """The full name of the image that it was made from."""
        return self._record.image

    @property
    def labels(self) -> dict[str, str]:
        """Its labels."""
        return dict(self._record.labels)

    @property
    def runtime(self) -> str:
        """The runtime that runs it, such as io.containerd.runc.v2."""
        return self._record.runtime.name

    @property
    def snapshotter(self) -> str:
        """The snapshotter that holds its root file system."""
        return self._record.snapshotter

    @property
    def created_at(self) -> datetime:
        """When it was made."""
        return moment(self._record.created_at)

    @property
    def spec(self) -> dict[str, Any]:
        """Its OCI runtime spec."""
        document: dict[str, Any] = json.loads(self._record.spec.value)
        return document

    @property
    def status(self) -> str:
        """One of created, running, paused, exited; unknown for a state that the client has no word for."""
        return status_of(self._task)

    @property
    def pid(self) -> int:
        """Of its init on the host; 0 where it does not run."""
        return self._task.pid if self._task is not None and self.status in ("running", "paused") else 0

    @property
    def exit_code(self) -> int | None:
        """Of its init; None before it ended."""
        return self._task.exit_status if self._task is not None and self.status == "exited" else None

    async def reload(self) -> None:
        """Fetch its fields anew. Raises NotFound once it is deleted."""
        request = containers_pb2.GetContainerRequest(id=self.id)
        self._record = (await self._channel.call(_api.CONTAINER_GET, request)).container
        self._task = await get_task(self._channel, self.id)

    async def start(self) -> None:
        """Run it; one that has exited runs again, on the file system that it left. A running one stays as it is.

        Its output goes to its log (`logs`), unless `attach` came before. Raises what the runtime says, such as
        that the command is not in the image; the container is then as before.
        """
        await self.reload()
        if self.status in ("running", "paused"):
            return
        if self._task is None or self.status == "exited":
            await end_task(self._channel, self.id, force=False)
            await create_task(self._channel, self._record, self._has_terminal(), None)
        try:
            await self._channel.call(_api.TASK_START, tasks_pb2.StartRequest(container_id=self.id))
        except BaseException:
            await end_task(self._channel, self.id, force=True)
            raise
        self._task = await get_task(self._channel, self.id)

    async def attach(self) -> AsyncProcess:
        """Take its standard streams; to be called before `start`, in place of the log.

        Raises FailedPrecondition where it runs already: `logs` shows what it wrote, `exec` starts a shell.
        """
        await self.reload()
        if self._task is not None and self.status != "exited":
            raise FailedPrecondition(
                f"The container {self.id} is {self.status} already; attach before start, or use logs"
            )
        await end_task(self._channel, self.id, force=False)
        channel, terminal = self._channel, self._has_terminal()
        stdio = channel.open_stdio(stdin=keeps_stdin(self._record), terminal=terminal, limit=READ_AHEAD)
        await create_task(channel, self._record, terminal, stdio)
        self._task = await get_task(channel, self.id)
        return AsyncProcess(channel, self.id, "", stdio)

    async def close_stdin(self) -> None:
        """Let its init read the end of its standard input."""
        request = tasks_pb2.CloseIORequest(container_id=self.id, stdin=True)
        await self._channel.call(_api.TASK_CLOSE_IO, request)

    async def kill(self, signal: int | str = "KILL", *, all: bool = False) -> None:
        """Send a signal to its init, or to `all` its processes. Raises NotFound where it does not run."""
        request = tasks_pb2.KillRequest(container_id=self.id, signal=_signals.number(signal), all=all)
        await self._channel.call(_api.TASK_KILL, request)

    async def stop(self, timeout: float = 10, signal: int | str = "") -> int:
        """Ask it to end and return its exit code; after `timeout` seconds it is killed. One that ended stays so.

        `signal`: default: the image's stop signal, else TERM. Raises NotFound where it was never started.
        """
        await self.reload()
        if self.status == "paused":
            await self.resume()
        if self.status == "running":
            try:
                await self.kill(signal or self.labels.get(STOP_SIGNAL_LABEL) or "TERM")
            except NotFound:
                pass  # it ended in between
            try:
                await self.wait(timeout)
            except DeadlineExceeded:
                await self.kill("KILL", all=True)
        code = await self.wait()
        self._task = await get_task(self._channel, self.id)
        return code

    async def wait(self, timeout: float | None = None) -> int:
        """Its init's exit code, once that has ended. Raises DeadlineExceeded; NotFound where it was never started."""
        request = tasks_pb2.WaitRequest(container_id=self.id)
        return (await self._channel.call(_api.TASK_WAIT, request, timeout=timeout)).exit_status

    async def pause(self) -> None:
        """Freeze all its processes."""
        await self._channel.call(_api.TASK_PAUSE, tasks_pb2.PauseTaskRequest(container_id=self.id))
        self._task = await get_task(self._channel, self.id)

    async def resume(self) -> None:
        """Let them go on."""
        await self._channel.call(_api.TASK_RESUME, tasks_pb2.ResumeTaskRequest(container_id=self.id))
        self._task = await get_task(self._channel, self.id)

    async def delete(self, *, force: bool = False) -> None:
        """Remove it with its file system and log; `force` kills it first. Raises FailedPrecondition where it runs."""
        await end_task(self._channel, self.id, force=force)
        await self._channel.call(_api.CONTAINER_DELETE, containers_pb2.DeleteContainerRequest(id=self.id))
        if self._record.snapshot_key:
            request = snapshots_pb2.RemoveSnapshotRequest(snapshotter=self.snapshotter, key=self._record.snapshot_key)
            try:
                await self._channel.call(_api.SNAPSHOT_REMOVE, request)
            except NotFound:
                pass
        self._channel.io.forget(self.namespace, self.id)

    async def pids(self) -> Sequence[int]:
        """The processes in it, by their ids on the host."""
        answer = await self._channel.call(_api.TASK_PIDS, tasks_pb2.ListPidsRequest(container_id=self.id))
        return [process.pid for process in answer.processes]

    async def stats(self) -> Stats:
        """What it uses now. Raises NotFound where it does not run."""
        answer = await self._channel.call(_api.TASK_METRICS, tasks_pb2.MetricsRequest(filters=[f"id=={self.id}"]))
        if not answer.metrics:
            raise NotFound(f"The container {self.id} does not run, so it has no statistics")
        return stats(answer.metrics[0])

    async def set_labels(self, labels: Mapping[str, str]) -> None:
        """Set these labels and keep its others; an empty value removes one."""
        record = containers_pb2.Container(id=self.id, labels=labels)
        mask = FieldMask(paths=[f"labels.{key}" for key in labels])
        request = containers_pb2.UpdateContainerRequest(container=record, update_mask=mask)
        self._record = (await self._channel.call(_api.CONTAINER_UPDATE, request)).container

    async def logs(self) -> bytes:
        """What its init wrote since the container was made, both streams in order; b"" where that went elsewhere."""
        try:
            with open(self._log_path(), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return b""

    async def follow_logs(self) -> AsyncIterator[bytes]:
        """Its log in pieces, from the start, until it has ended."""
        offset, ended = 0, False
        while True:
            with open(self._log_path(), "rb") if os.path.exists(self._log_path()) else open(os.devnull, "rb") as file:
                file.seek(offset)
                while data := file.read(_PIECE):
                    offset += len(data)
                    yield data
            if ended:
                return
            ended = status_of(await get_task(self._channel, self.id)) not in ("running", "paused")
            if not ended:
                await sleep_async(_LOG_POLL)

    def _log_path(self) -> str:
        return os.path.join(self._channel.io.of(self.namespace, self.id), LOG)

    def _has_terminal(self) -> bool:
        return bool(self.spec.get("process", {}).get("terminal", False))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.status}>"
