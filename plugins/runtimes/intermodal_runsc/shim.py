"""What the spawner preloads and forks for runsc: our shim with gVisor's ways."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message
from intermodal_api.cgroups import v1_pb2 as v1
from intermodal_api.containerd.runtime import runc_options_pb2 as runc
from intermodal_core.errors import FailedPrecondition, IntermodalError, Unimplemented
from intermodal_shim import shim
from intermodal_shim.cgroup_remains import remove_cgroups
from intermodal_shim.container import Answer, Container
from intermodal_shim.main import Shim
from intermodal_shim.process import STOPPED, Process

__all__ = ["RunscContainer", "RunscShim", "zygote"]


#: How runsc ends when it has failed itself.
_NO_ANSWER = 128


class RunscContainer(Container):
    """A container whose init is a sandbox: the kernel that runs it.

    Host pids name the sandbox, and for each exec process a `runsc exec` that ends with its status; signals go through
    runsc, to the pids inside.
    """

    delete_words = ("--force",)  # one that was paused when it was killed is not stopped, to runsc

    def _made(self, process: Process) -> None:
        if process is self.init:
            super()._made(process)
            self._own_pids = self.cgroup is None

    def _exec_words(self, process: Process) -> list[str]:
        return ["--internal-pid-file", self._inside(process)]

    def _inside(self, process: Process) -> str:
        return os.path.join(self.bundle, f"exec-{process.exec_id}.inside")

    def _signal(self, process: Process, number: int, answer: Answer) -> None:
        def ended(error: IntermodalError | None, report: bytes) -> None:
            answer(error)

        if process is not self.init:
            with open(self._inside(process), encoding="ascii") as file:
                self._run("kill", "--pid", file.read().strip(), self.id, str(number), ended=ended)
        elif number == signal.SIGKILL:
            os.kill(process.pid, number)  # of the kernel itself: it need not answer, nor be awake
            answer(None)
        else:
            self._run("kill", self.id, str(number), ended=ended)

    def kill_all(self, number: int, answer: Answer) -> None:
        """Send a signal to all processes: SIGKILL to the sandbox, whose end is that of all."""
        if number == signal.SIGKILL and self.init.alive:
            self._signal(self.init, number, answer)
        else:
            super().kill_all(number, answer)

    def _ended(self, process: Process, status: int) -> None:
        # A `runsc exec` whose sandbox was killed cannot know how its process ended.
        if process is not self.init and status == _NO_ANSWER and _over(self.init.pid):
            status = 128 + signal.SIGKILL
        super()._ended(process, status)

    def pids(self) -> list[int]:
        """Of the sandbox alone: what is inside has no pid on the host."""
        return [self.init.pid] if self.init.alive else []

    def _clear(self) -> None:
        remove_cgroups(self.id, self.bundle)  # runsc leaves them where a container could not be made, or was paused

    def _checkpoint_words(self, options: runc.CheckpointOptions) -> list[str]:
        if not options.exit:
            raise FailedPrecondition(
                f"container {self.id}: gVisor ends a container with its checkpoint; ask for that (exit), and restore it"
            )
        return []

    def update(self, resources: bytes, answer: Answer) -> None:
        """It has no such command."""
        raise Unimplemented(f"container {self.id} keeps its limits: runsc cannot change those of a running container")

    def stats(self, answer: Callable[[IntermodalError | None, Message | None], object]) -> None:
        """Of its cgroup where it has one, else as the sandbox counts, and what its processes have used of processors."""
        if self.cgroup is not None or self.init.status == STOPPED:
            super().stats(answer)
            return

        def ended(error: IntermodalError | None, report: bytes) -> None:
            if error is not None:
                answer(error, None)
            else:
                answer(None, _counted(report, self.init.pid))

        self._run("events", "--stats", self.id, ended=ended)


class RunscShim(Shim):
    """A shim of such containers."""

    container_type = RunscContainer


def zygote(args: list[Any], fds: list[int]) -> int:
    """As `intermodal_shim.shim.zygote`."""
    return shim.zygote(args, fds, RunscShim)


def _over(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            return file.read().rpartition(b")")[2].split()[0] in b"ZX"
    except OSError:
        return True


def _counted(report: bytes, sandbox: int) -> v1.Metrics:
    """What `runsc events --stats` says, which of processors only tells what its whole cgroup used, be it shared with others."""
    metrics = v1.Metrics()
    for line in report.splitlines():
        event = json.loads(line)
        if event.get("type") == "stats":
            data = event["data"]
            metrics.memory.usage.usage = data["memory"]["usage"]["usage"]
            metrics.pids.current = data["pids"]["current"]
    user, system = _processor_time(sandbox)
    metrics.cpu.usage.total, metrics.cpu.usage.user, metrics.cpu.usage.kernel = user + system, user, system
    return metrics


def _processor_time(session: int) -> tuple[int, int]:
    """User and system time in ns of the processes in a session, and of their children that were collected."""
    user = system = 0
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", "rb", buffering=0) as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue  # it has ended
        if int(fields[3]) == session:
            user += int(fields[11]) + int(fields[13])
            system += int(fields[12]) + int(fields[14])
    tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    return user * tick, system * tick
