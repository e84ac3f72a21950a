"""What the daemon is told of a container, as containerd's task events."""

from __future__ import annotations

import os

from intermodal_api.containerd.events import task_pb2 as events

from intermodal_shim.cgroups import Cgroup
from intermodal_shim.host import Host
from intermodal_shim.process import Process

__all__ = ["Notices"]


class Notices:
    """Publishes the events of the container `id`, and watches its cgroup for kills for want of memory."""

    def __init__(self, host: Host, id: str) -> None:
        self._host = host
        self._id = id
        self._cgroup: Cgroup | None = None
        self._watch = -1
        self._oom_kills = 0

    def created(self, bundle: str, pid: int) -> None:
        """Init is there, and waits to be started."""
        self._host.publish("/tasks/create", events.TaskCreate(container_id=self._id, bundle=bundle, pid=pid))

    def started(self, process: Process) -> None:
        """It runs."""
        if not process.exec_id:
            self._host.publish("/tasks/start", events.TaskStart(container_id=self._id, pid=process.pid))
        else:
            event = events.TaskExecStarted(container_id=self._id, exec_id=process.exec_id, pid=process.pid)
            self._host.publish("/tasks/exec-started", event)

    def added(self, exec_id: str) -> None:
        """A process can be started."""
        self._host.publish("/tasks/exec-added", events.TaskExecAdded(container_id=self._id, exec_id=exec_id))

    def exited(self, process: Process) -> None:
        """It has ended."""
        event = events.TaskExit(
            container_id=self._id,
            id=process.exec_id or self._id,
            pid=process.pid,
            exit_status=process.exit_status,
        )
        event.exited_at.FromNanoseconds(process.exited_at)
        self._host.publish("/tasks/exit", event)

    def deleted(self, process: Process) -> None:
        """It is forgotten."""
        event = events.TaskDelete(
            container_id=self._id, id=process.exec_id, pid=process.pid, exit_status=process.exit_status
        )
        event.exited_at.FromNanoseconds(process.exited_at)
        self._host.publish("/tasks/delete", event)

    def paused(self) -> None:
        """All processes are frozen."""
        self._host.publish("/tasks/paused", events.TaskPaused(container_id=self._id))

    def resumed(self) -> None:
        """They go on."""
        self._host.publish("/tasks/resumed", events.TaskResumed(container_id=self._id))

    def checkpointed(self, path: str) -> None:
        """A checkpoint was written."""
        self._host.publish("/tasks/checkpointed", events.TaskCheckpointed(container_id=self._id, checkpoint=path))

    # Out of memory: told always, as the daemon has no other way to know

    def watch_oom(self, cgroup: Cgroup) -> None:
        """Tell of kills as they happen; where the kernel cannot be asked for that, at `read_oom`."""
        self._cgroup = cgroup
        try:
            self._watch, notified = cgroup.watch_oom()
        except OSError as error:
            self._host.log(f"out of memory is told at the end only, {self._id} cannot be watched: {error}")
            return
        add = self._host.loop.add_notifier if notified else self._host.loop.add_reader
        add(self._watch, self._oom_told)

    def read_oom(self) -> None:
        """Tell of every kill that was not told of yet."""
        kills = self._cgroup.oom_kills() if self._cgroup is not None else 0
        if kills > self._oom_kills:
            self._oom_kills = kills
            self._host.publish("/tasks/oom", events.TaskOOM(container_id=self._id), always=True)

    def unwatch_oom(self) -> None:
        """Idempotent."""
        if self._watch >= 0:
            self._host.loop.remove_reader(self._watch)
            os.close(self._watch)
            self._watch = -1

    def _oom_told(self) -> None:
        try:
            os.read(self._watch, 8)
        except OSError:
            pass
        self.read_oom()
