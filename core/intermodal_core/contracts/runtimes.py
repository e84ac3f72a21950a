"""Runtimes: containers as processes.

A *task* is the running side of a container, named by (namespace, id). It has an init process (exec id "") and any
number of exec processes. A runtime keeps nothing in the daemon: `connect` after a restart finds all tasks again.

Life cycle of a task: `create` (its init is held) -> `start` -> `exec` and `start` of further processes -> a process ends, by
itself or by `kill`, and `wait` returns -> `delete` of each exec process, and of init in the end. After a restart of the daemon:
`connect`, then `processes` where it is declared; where nothing answers, `cleanup`.

All methods may run at once, for one task too, and [R5] holds between tasks. They are called on the daemon's loop, so none
blocks it. Times are in ns since the epoch, sizes in bytes, terminals in characters.

Public specifications followed: the OCI runtime specification (bundles, `config.json`, `process`, `linux.resources`); of the words
and statuses, containerd's Task service, version 3.

Events: `/tasks/oom` is reported through the daemon's ttrpc socket, as shims do; all others are published by the tasks
manager, from the returns of these calls. A foreign shim reports exits there, too, which does no harm.
"""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

import msgspec

from intermodal_core.contracts.common import Fd, Mount

__all__ = [
    "VERSION",
    "CreateTask",
    "Exit",
    "ProcessState",
    "Runtime",
    "RuntimeInfo",
    "Stats",
    "Status",
    "Stdio",
    "TaskRef",
]

VERSION = 1

Status = Literal["created", "running", "stopped", "paused", "pausing", "unknown"]


class TaskRef(msgspec.Struct, frozen=True):
    """Names a task."""

    namespace: str
    id: str


class Stdio(msgspec.Struct, frozen=True):
    """Where a process's streams go: FIFO paths, or URIs (`file://`, `binary://`, `cri://`); "" is none.

    `attach://` is a stream that only `attach` feeds or reads: stdin stays open until then, output waits for a first sink.
    `cri:///PATH?size=BYTES&files=N` is a log in the CRI's format, PATH a file, or a directory for its `0.log`; past
    `size` it is rotated to PATH.1 and so on. With a terminal only stdin and stdout exist.
    """

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False


class CreateTask(msgspec.Struct, frozen=True):
    """What `create` needs.

    `bundle` is a directory that holds `config.json` and that the runtime may fill; `rootfs` is mounted at
    `bundle/rootfs` by the runtime and unmounted at delete. `options` with `options_type` is the Any that the client sent
    (type "": none).
    """

    bundle: str
    rootfs: tuple[Mount, ...] = ()
    stdio: Stdio = Stdio()
    options_type: str = ""
    options: bytes = b""
    checkpoint: str = ""


class Exit(msgspec.Struct, frozen=True):
    """How a process ended: status 0-255 (a signal is 128 + n), time in ns since the epoch; `pid` is 0 from `wait`."""

    pid: int
    status: int
    exited_at: int


class ProcessState(msgspec.Struct, frozen=True):
    """What `state` answers; `started`, which `processes` tells, is also true of what was started and has ended."""

    id: str
    exec_id: str
    pid: int
    status: Status
    bundle: str = ""
    stdio: Stdio = Stdio()
    exit_status: int = 0
    exited_at: int = 0
    started: bool = False


class Stats(msgspec.Struct, frozen=True):
    """Counters as a serialized message: `io.containerd.cgroups.v1.Metrics` or `io.containerd.cgroups.v2.Metrics`.

    `source` says who counted: "cgroup", the kernel; "runtime", the runtime itself; "shim", a foreign shim, which does not say.
    """

    type_url: str
    data: bytes
    source: str = "cgroup"


class RuntimeInfo(msgspec.Struct, frozen=True):
    """What was found on this machine: the binary's path and its version line.

    `hides_writes` names the option by which what containers write is in no snapshot, "" where it is in theirs.
    """

    name: str
    binary: str
    version: str
    annotations: dict[str, str] = {}
    hides_writes: str = ""


@runtime_checkable
class Runtime(Protocol):
    """A runtime backend.

    Capabilities: `exec`, `pause`, `update`, `stats`, `checkpoint`, `terminal`, `attach`, `processes`; `pids` where each
    process inside has a pid on the host; `any-shim` where the
    plugin drives every shim of the world, named by the absolute path in its option `binary`. Where a plugin has such an option, a
    container is pinned to the path that `info` found for it.

    [R1] A task outlives the daemon, and its output never passes through it.
    [R2] An exit status is never lost: it is known from `wait`, `state` or `delete` until `delete` answered.
    [R3] `/tasks/start` precedes `/tasks/exit`; all exec exits precede init's.
    [R4] A failed `create` leaves no process, mount, cgroup or file outside the bundle.
    [R5] One stuck task delays no other.
    """

    async def info(self) -> RuntimeInfo:
        """[R6] The binary and its version. Raises NotFound naming what was sought and where."""

    async def create(self, task: TaskRef, request: CreateTask) -> int:
        """[R7] Create the container, its init held before the user's program; returns init's pid.

        With a `checkpoint`, what `checkpoint` wrote, `start` goes on from there; there may be no process before (pid 0).

        Raises AlreadyExists, InvalidArgument for a spec the runtime refuses, quoting its message.
        """

    async def connect(self, task: TaskRef, bundle: str) -> int:
        """[R8] Take up a task after a restart; returns init's pid. Raises NotFound when nothing of it lives.

        After NotFound the caller calls `cleanup`.
        """

    async def cleanup(self, task: TaskRef, bundle: str) -> Exit:
        """[R9] Remove whatever is left of a task whose shim is gone: processes, cgroup, mounts. Idempotent.

        The exit's status is 137 and its time now where the real one is not known. Once the runtime is being closed
        nothing is removed any more: raises Cancelled.
        """

    async def start(self, task: TaskRef, exec_id: str = "") -> int:
        """[R10] Start init or an exec process; returns its pid. Raises NotFound, FailedPrecondition."""

    async def exec(self, task: TaskRef, exec_id: str, process: bytes, stdio: Stdio) -> None:
        """[R11] Add a process; `process` is the OCI `process` object as JSON. Raises AlreadyExists, FailedPrecondition
        when init does not run.
        """

    async def kill(self, task: TaskRef, signal: int, exec_id: str = "", all: bool = False) -> None:
        """[R12] Send a signal to one process or to all. Raises NotFound when it has ended."""

    async def pause(self, task: TaskRef) -> None:
        """[R13] Freeze all processes. Raises Unimplemented without the capability."""

    async def resume(self, task: TaskRef) -> None:
        """[R14] Undo `pause`."""

    async def resize(self, task: TaskRef, width: int, height: int, exec_id: str = "") -> None:
        """[R15] Set a terminal's size in characters."""

    async def close_stdin(self, task: TaskRef, exec_id: str = "") -> None:
        """[R16] No more input will come; the process sees end of file once what was written is read."""

    async def attach(self, task: TaskRef, fds: tuple[Fd, Fd, Fd], exec_id: str = "", hold: bool = False) -> None:
        """[R17] Add stdin, stdout, stderr descriptors (-1: none) as source and sinks of a process's streams.

        The descriptors are duplicated. The log gets everything first. A sink that is full delays nobody and loses what it
        cannot take, unless `hold` is true: then the process waits for it, as it would for a pipe, until it drains or
        goes. End of file on the stdin given closes the process's stdin; a terminal's user who goes ends nothing. With a
        terminal, stdout carries both. A stream that is "" cannot be attached to (FailedPrecondition). Sinks are
        closed when the process's output has ended. Raises Unimplemented without the capability.
        """

    async def update(self, task: TaskRef, resources: bytes) -> None:
        """[R18] Change limits; `resources` is the OCI `linux.resources` object as JSON."""

    async def pids(self, task: TaskRef) -> list[int]:
        """[R19] Host pids: with the capability, of all processes inside; else of what runs them."""

    async def stats(self, task: TaskRef) -> Stats:
        """[R20] Counters now; an unknown counter is absent, never 0."""

    async def checkpoint(self, task: TaskRef, path: str, options_type: str = "", options: bytes = b"") -> None:
        """[R21] Write a checkpoint to `path`. Raises Unimplemented without the capability."""

    async def wait(self, task: TaskRef, exec_id: str = "") -> Exit:
        """[R22] Return when the process has ended. Raises NotFound, Unavailable when the shim is gone, Cancelled when the
        runtime is being closed: the task lives on.
        """

    async def state(self, task: TaskRef, exec_id: str = "") -> ProcessState:
        """[R23] The process's state. Raises NotFound."""

    async def delete(self, task: TaskRef, exec_id: str = "") -> Exit:
        """[R24] Forget a process that has ended, once all output that was written has reached its sinks or their deadline;
        for init: unmount the root filesystem before it answers, and remove cgroup and shim, which may go on behind the
        answer; `create` of the same name waits for that. Raises FailedPrecondition when it still runs.
        """

    async def review(self, spec: bytes) -> list[str]:
        """[R26] Sentences about what of a spec, OCI's `config.json`, is otherwise here than it says; nothing is run.

        Raises FailedPrecondition for what cannot be honoured here.
        """

    async def processes(self, task: TaskRef) -> list[ProcessState]:
        """[R25] Init, first, and every exec process that was added and not deleted, ended ones as well: what a daemon asks
        that takes the task up. Raises NotFound, Unavailable; Unimplemented without the capability.
        """
