"""A container under the runtime's commands. Every method returns at once; what takes time answers through `answer(error)`."""

from __future__ import annotations

import errno
import os
import re
import signal
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from google.protobuf.message import Message
from intermodal_api.containerd.runtime import runc_options_pb2 as runc
from intermodal_core import syscalls
from intermodal_core.contracts.common import Mount
from intermodal_core.errors import (
    AlreadyExists,
    FailedPrecondition,
    IntermodalError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    from_os_error,
)
from intermodal_snapshots.mounts import mount_all

from intermodal_shim.cgroups import Cgroup
from intermodal_shim.host import Host
from intermodal_shim.notices import Notices
from intermodal_shim.process import CREATED, PAUSED, PAUSING, RUNNING, STOPPED, UNKNOWN, Process, check_signal, is_first
from intermodal_shim.runtime import Runtime, checkpoint_words, state_of
from intermodal_shim.stdio import Stdio, Streams

__all__ = ["Answer", "Container", "Host"]

Answer = Callable[[IntermodalError | None], object]

#: Seconds that commands which start a process have once init has ended.
_START_WITHIN = 1.0
_ID = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*")


class Container:
    """Commands that change the container's state run one after the other (`_queue`); starting an exec process and sending a
    signal wait for none of them.
    """

    #: What the delete command is told of a container that has ended.
    delete_words: tuple[str, ...] = ()

    def __init__(self, host: Host, runtime: Runtime, id: str, bundle: str, streams: Streams) -> None:
        self.id = id
        self.bundle = bundle
        self.init = Process("", streams)
        self.execs: dict[str, Process] = {}
        self.cgroup: Cgroup | None = None
        self._host = host
        self._runtime = runtime
        self._queue: deque[Callable[[], object]] = deque()
        self._busy = False
        self._mounted = False
        self._removed = False
        self._removing = False
        self._when_removed: list[Answer] = []
        self._own_pids = True
        self._poststop = False
        self._checkpoint = ""
        self._notices = Notices(host, id)
        self._final_metrics: Message | None = None
        self._ending: int | None = None

    # Life of init

    def create(self, mounts: list[Mount], answer: Answer, checkpoint: str = "") -> None:
        """Mount the root filesystem, open the streams, `runc create`. On an error everything is undone first.

        With a `checkpoint`, a directory, there is no process before `start`, which restores it.
        """
        self._busy = True
        self._checkpoint = checkpoint

        def created(error: IntermodalError | None) -> None:
            if error is not None:
                self._undo_create(error, answer)
                return
            answer(None)
            self._next()

        try:
            self._read_spec()
            if mounts:
                rootfs = os.path.join(self.bundle, "rootfs")
                os.makedirs(rootfs, mode=0o711, exist_ok=True)
                mount_all(mounts, rootfs)
                self._mounted = True
        except (IntermodalError, OSError) as error:
            created(_by_meaning(error, f"preparing container {self.id}"))
            return
        self._open(self.init, "init", lambda error: self._create(error, created))

    def _create(self, error: IntermodalError | None, created: Answer) -> None:
        if error is not None:
            created(error)
            return
        if self._checkpoint:
            self.init.status = CREATED
            self._notices.created(self.bundle, 0)
            created(None)
            return
        pid_file = self._pid_file()
        arguments = [*self._init_words(), *(["--no-new-keyring"] if self._runtime.options.no_new_keyring else [])]

        def ended(error: IntermodalError | None, report: bytes) -> None:
            if error is None:
                error = self._take_up(self.init, pid_file)
            if error is None:
                self.init.status = CREATED
                if self.cgroup is not None:
                    self._notices.watch_oom(self.cgroup)
                self._notices.created(self.bundle, self.init.pid)
            created(error)
            if error is None:
                self._host.loop.watch(self.init.pid, self._init_ended)

        fds = self.init.streaming().fds
        self._run("create", *arguments, self.id, ended=ended, fds=fds, default=InvalidArgument)

    def _init_words(self) -> list[str]:
        """What the command that makes init is told."""
        console = self.init.streaming().console_path
        words = ["--bundle", self.bundle, "--pid-file", self._pid_file()]
        words += ["--console-socket", console] if console else []
        return [*words, *(["--no-pivot"] if self._runtime.options.no_pivot else [])]

    def _pid_file(self) -> str:
        return os.path.join(self.bundle, "init.pid")

    def _restore(self, started: Answer) -> None:
        def ended(error: IntermodalError | None, report: bytes) -> None:
            if error is None:
                error = self._take_up(self.init, self._pid_file())
            if error is None:
                self.init.status = RUNNING
                if self.cgroup is not None:
                    self._notices.watch_oom(self.cgroup)
                self._host.loop.watch(self.init.pid, self._init_ended)
            else:
                self.init.streaming().close()
                self.init.end(255)
            started(error)
            self._next()

        words = ["--image-path", self._checkpoint, "--detach", *self._init_words(), self.id]
        self._run("restore", *words, ended=ended, fds=self.init.streaming().fds)

    def _undo_create(self, error: IntermodalError, answer: Answer) -> None:
        def undone(_: IntermodalError | None, report: bytes) -> None:
            self._clear()
            self._unmount()
            self._host.forget(self)
            answer(error)

        if self.init.stdio is not None:
            self.init.stdio.close()
        # A container of that id that another made is not ours to delete; without its directory there is none.
        root = self._runtime.options.root
        if isinstance(error, AlreadyExists) or (root and not state_of(root, self.id)):
            undone(None, b"")
        else:
            self._run("delete", "--force", self.id, ended=undone)

    def start(self, exec_id: str, answer: Answer) -> None:
        """Start init or an exec process. Its exit is told after this was answered."""
        process = self.process(exec_id)
        if process.status != CREATED or process.starting:
            raise FailedPrecondition(f"process {exec_id or 'init'} of container {self.id} was started already")
        process.starting = True

        def started(error: IntermodalError | None) -> None:
            process.starting = False
            if error is None and process.status == CREATED:
                process.status = RUNNING
            if error is None:
                process.started = True
                self._notices.started(process)
            answer(error)
            if process.early is not None:
                status, process.early = process.early, None
                self._ended(process, status)
            elif error is not None and exec_id:
                self._exec_failed(process, error)

        if exec_id:
            self._open(process, f"exec-{exec_id}", lambda error: self._start_exec(process, error, started))
        elif self._checkpoint:
            self._enqueue(lambda: self._restore(started))
        else:
            self._enqueue(lambda: self._command("start", self.id, answer=started))

    def _start_exec(self, process: Process, error: IntermodalError | None, started: Answer) -> None:
        if error is not None:
            started(error)
            return
        stdio = process.streaming()
        base = os.path.join(self.bundle, f"exec-{process.exec_id}")
        spec, pid_file = f"{base}.json", f"{base}.pid"

        def ended(error: IntermodalError | None, report: bytes) -> None:
            if error is None:
                error = self._take_up(process, pid_file)
            _unlink(spec)
            _unlink(pid_file)
            if error is None:
                process.status = RUNNING
                self._host.loop.watch(process.pid, partial(self._ended, process))
            else:
                stdio.close()
            started(error)

        try:
            with open(spec, "xb", opener=_private) as file:
                file.write(process.spec)
        except OSError as failed:
            stdio.close()
            started(from_os_error(failed, "writing the process"))
            return
        process.spec = b""
        arguments = ["--process", spec, "--detach", "--pid-file", pid_file, *self._exec_words(process)]
        arguments += ["--console-socket", stdio.console_path] if stdio.console_path else []
        process.command = self._run("exec", *arguments, self.id, ended=ended, fds=stdio.fds)

    def _exec_words(self, process: Process) -> list[str]:
        """What else an exec command is told."""
        return []

    def exec(self, exec_id: str, streams: Streams, spec: bytes) -> None:
        """Add a process, to be started later."""
        if exec_id in self.execs:
            raise AlreadyExists(f"container {self.id} has a process {exec_id} already")
        if len(exec_id) > 76 or not _ID.fullmatch(exec_id):
            raise InvalidArgument(f"{exec_id!r} is no identifier: letters and digits, with single . _ - between them")
        if not self.init.alive:
            raise FailedPrecondition(f"container {self.id} does not run: nothing can be executed in it")
        self.execs[exec_id] = Process(exec_id, streams, spec)
        self._notices.added(exec_id)

    def _exec_failed(self, process: Process, error: IntermodalError) -> None:
        """It never ran; who waits for it gets a shell's status for that."""
        process.end(127 if isinstance(error, NotFound) else 126 if isinstance(error, PermissionDenied) else 255)
        self._init_may_end()

    # Ends

    def _init_ended(self, status: int) -> None:
        self._ended(self.init, status)

    def _ended(self, process: Process, status: int) -> None:
        """A process ended: told once its start was answered, init's after all others'."""
        if process.starting:
            process.early = status
        elif process is self.init:
            self._ending = status
            if not self._own_pids:
                self._kill_all()
            self._init_may_end()
            if self._ending is not None:
                self._host.loop.call_later(_START_WITHIN, self._give_up_starts)
        else:
            self._tell_end(process, status)
            self._init_may_end()

    def _init_may_end(self) -> None:
        if self._ending is None or any(process.alive or process.starting for process in self.execs.values()):
            return
        status, self._ending = self._ending, None
        self._notices.read_oom()
        self._tell_end(self.init, status)
        if self.cgroup is not None:
            self._notices.unwatch_oom()
            self._final_metrics = self.cgroup.metrics()
        if not self._poststop:
            self._enqueue(self._remove)

    def _give_up_starts(self) -> None:
        """A command that still starts a process in the ended container hangs; init's end waits no longer for it."""
        for process in self.execs.values():
            if process.starting and process.command:
                os.kill(process.command, signal.SIGKILL)

    def _tell_end(self, process: Process, status: int) -> None:
        if process.stdio is not None:
            process.stdio.catch_up()
        process.end(status)
        self._notices.exited(process)
        if process.stdio is not None:
            process.stdio.process_ended()

    def _remove(self) -> None:
        """`runc delete`, and the root filesystem's end; then `_when_removed` are answered."""
        if self._removed or self._removing:
            self._next()
            return
        self._removing = True

        def deleted(error: IntermodalError | None, report: bytes) -> None:
            self._removing = False
            if error is None or isinstance(error, NotFound):
                self._removed = True
                self._clear()
                error = self._unmount()
            if error is not None:
                self._host.log(f"removing {self.id}: {error}")
            waiting, self._when_removed = self._when_removed, []
            for answer in waiting:
                answer(error)
            self._next()

        self._run("delete", *self.delete_words, self.id, ended=deleted)

    def delete(self, exec_id: str, answer: Answer) -> None:
        """Forget a process that has ended, once its output is drained; init: with all that is left of the container."""
        process = self.process(exec_id)
        if process is self.init and process.status == CREATED and process.alive:
            process.when_ended(lambda: self.delete(exec_id, answer))
            self.kill("", signal.SIGKILL, lambda error: None if error is None else answer(error))
            return
        if process.status != STOPPED and (process.alive or process.starting):
            raise FailedPrecondition(f"process {exec_id or 'init'} of container {self.id} still runs: kill it first")

        def drained() -> None:
            if process.stdio is not None:
                process.stdio.close()
                process.stdio = None
            if process is self.init:
                self._delete_container(answer)
            else:
                self.execs.pop(exec_id, None)
                self._notices.deleted(process)
                answer(None)

        process.when_drained(drained)

    def _delete_container(self, answer: Answer) -> None:
        """Answer once nothing of the container is in anybody's way; `runc delete` may still be closing its books then.

        The spec's poststop hooks are a part of the deletion, and waited for.
        """
        if not self._poststop:
            error = self._unmount()
            if error is not None:
                answer(error)
                return
            self._answer_delete(answer)

        def removed(error: IntermodalError | None) -> None:
            if not self._poststop:
                self._host.forget(self)  # a failure is in the log
            elif error is None:
                self._answer_delete(answer)
                self._host.forget(self)
            else:
                answer(error)

        if self._removed:
            removed(None)
            return
        self._when_removed.append(removed)
        if not self._removing:
            self._enqueue(self._remove)

    def _answer_delete(self, answer: Answer) -> None:
        for process in self.execs.values():
            if process.stdio is not None:
                process.stdio.close()
        self._notices.deleted(self.init)
        self._host.release(self)
        answer(None)

    # What can be asked of it

    def process(self, exec_id: str) -> Process:
        """Raises NotFound."""
        process = self.execs.get(exec_id) if exec_id else self.init
        if process is None:
            raise NotFound(f"container {self.id} has no process {exec_id}")
        return process

    def kill(self, exec_id: str, number: int, answer: Answer) -> None:
        """Send a signal to one process. Raises NotFound when it has ended."""
        process = self.process(exec_id)
        if not process.alive or (process is self.init and self._ending is not None):
            raise NotFound(f"process {exec_id or 'init'} of container {self.id} has ended or was not started")
        check_signal(number)
        self._signal(process, number, answer)

    def _signal(self, process: Process, number: int, answer: Answer) -> None:
        # Only this process reaps it, so the pid is still its own.
        os.kill(process.pid, number)
        if number == signal.SIGKILL and self.init.status in (PAUSED, PAUSING) and self.cgroup is not None:
            self.cgroup.thaw()
        answer(None)

    def kill_all(self, number: int, answer: Answer) -> None:
        """Send a signal to all processes."""
        check_signal(number)
        if not self.init.alive:
            raise NotFound(f"container {self.id} has ended")
        self._run("kill", "--all", self.id, str(number), ended=lambda error, report: answer(error))

    def pause(self, answer: Answer) -> None:
        """Freeze all processes."""

        def paused(error: IntermodalError | None) -> None:
            self._set_status(PAUSED if error is None else RUNNING)
            if error is None:
                self._notices.paused()
            answer(error)

        self._expect(RUNNING)
        self.init.status = PAUSING
        self._enqueue(lambda: self._command("pause", self.id, answer=paused))

    def resume(self, answer: Answer) -> None:
        """Let them go on."""

        def resumed(error: IntermodalError | None) -> None:
            if error is None:
                self._set_status(RUNNING)
                self._notices.resumed()
            answer(error)

        self._expect(PAUSED)
        self._enqueue(lambda: self._command("resume", self.id, answer=resumed))

    def update(self, resources: bytes, answer: Answer) -> None:
        """Change limits: OCI resources as JSON."""
        self._expect(CREATED, RUNNING, PAUSED)

        def run() -> None:
            given = os.memfd_create("resources", os.MFD_CLOEXEC)
            try:
                os.write(given, resources)
                os.lseek(given, 0, os.SEEK_SET)
                self._command("update", "--resources", "-", self.id, answer=answer, fds={0: given})
            finally:
                os.close(given)

        self._enqueue(run)

    def checkpoint(self, path: str, options: runc.CheckpointOptions, answer: Answer) -> None:
        """Write a checkpoint into `path`."""
        self._expect(RUNNING, PAUSED)
        command = ["--image-path", path, *self._checkpoint_words(options), self.id]

        def done(error: IntermodalError | None) -> None:
            if error is None:
                self._notices.checkpointed(path)
            answer(error)

        self._enqueue(lambda: self._command("checkpoint", *command, answer=done))

    def _checkpoint_words(self, options: runc.CheckpointOptions) -> list[str]:
        return checkpoint_words(options)

    def pids(self) -> list[int]:
        """All processes inside."""
        return self.cgroup.pids() if self.cgroup is not None and self.init.status != STOPPED else []

    def stats(self, answer: Callable[[IntermodalError | None, Message | None], object]) -> None:
        """Counters, the final ones after the end. Raises FailedPrecondition where there is no cgroup."""
        metrics = self._final_metrics
        if metrics is None:
            if self.cgroup is None:
                raise FailedPrecondition(f"container {self.id} has no cgroup")
            metrics = self.cgroup.metrics()
        answer(None, metrics)

    def reopen_logs(self) -> None:
        """Open log files by their names again."""
        for process in (self.init, *self.execs.values()):
            if process.stdio is not None:
                process.stdio.reopen_logs()

    # The queue, and small steps

    def _enqueue(self, step: Callable[[], object]) -> None:
        self._queue.append(step)
        if not self._busy:
            self._next()

    def _next(self) -> None:
        self._busy = bool(self._queue)
        if self._busy:
            self._queue.popleft()()

    def _command(self, verb: str, *arguments: str, answer: Answer, fds: dict[int, int] | None = None) -> None:
        """A queued command: the next one begins when it has ended."""

        def ended(error: IntermodalError | None, report: bytes) -> None:
            answer(error)
            self._next()

        self._run(verb, *arguments, ended=ended, fds=fds)

    def _run(self, verb: str, *arguments: str, ended: Callable[..., object], **options: Any) -> int:
        """The command's pid, 0 when there is none and `ended` was called with why."""
        try:
            return self._runtime.run(verb, *arguments, ended=ended, **options)
        except IntermodalError as error:
            ended(error, b"")
            return 0

    def _open(self, process: Process, name: str, ready: Answer) -> None:
        identity = self.id, self._host.namespace
        process.stdio = Stdio(self._host.loop, process.streams, identity, process.drained)
        process.stdio.open(self.bundle, name, ready)

    def _take_up(self, process: Process, pid_file: str) -> IntermodalError | None:
        """The runtime has made the process: learn its pid and, of init, its cgroup; take its terminal."""
        try:
            with open(pid_file, "rb", buffering=0) as file:
                process.pid = int(file.read())
            self._made(process)
            process.streaming().started()
        except (IntermodalError, OSError, ValueError) as error:
            return _by_meaning(error, f"taking up process {process.exec_id or 'init'} of container {self.id}")
        return None

    def _made(self, process: Process) -> None:
        """Learn of a new process what there is to know. Raises OSError."""
        if process is self.init:
            cgroup = Cgroup(process.pid)
            # What is counted, and who is, in the shim's own would be everybody.
            self.cgroup = None if cgroup.is_of(os.getpid()) else cgroup
            self._own_pids = is_first(process.pid)

    def _read_spec(self) -> None:
        with open(os.path.join(self.bundle, "config.json"), "rb", buffering=0) as file:
            spec = file.read()
        # An unescaped quote cannot be inside a JSON string: this is the hooks' key, be its list empty or not.
        self._poststop = b'"poststop"' in spec

    def _expect(self, *statuses: int) -> None:
        if self.init.status not in statuses:
            names = ("unknown", "created", "running", "stopped", "paused", "pausing")
            wanted = " or ".join(names[status] for status in statuses)
            raise FailedPrecondition(f"container {self.id} is {names[self.init.status]}, not {wanted}")

    def _set_status(self, status: int) -> None:
        if self.init.status not in (STOPPED, UNKNOWN):
            self.init.status = status

    def _kill_all(self) -> None:
        pids = self.cgroup.pids() if self.cgroup is not None else []
        if os.getpid() in pids:
            return  # a cgroup that is others', too: whom to kill in it cannot be told
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def _clear(self) -> None:
        """What the runtime's own delete command leaves."""

    def _unmount(self) -> IntermodalError | None:
        while self._mounted:
            try:
                syscalls.umount(os.path.join(self.bundle, "rootfs"), syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
            except OSError as error:
                self._mounted = False
                if error.errno not in (errno.EINVAL, errno.ENOENT):
                    return from_os_error(error, "unmounting the root filesystem")
        return None


def _by_meaning(error: Exception, doing: str) -> IntermodalError:
    if isinstance(error, IntermodalError):
        return error
    return from_os_error(error, doing) if isinstance(error, OSError) else IntermodalError(f"{doing}: {error}")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
