"""The spawner's process: it forks functions of preloaded modules, and commands, for the daemon, which never forks.

Started by `intermodal_core.spawner` with one end of a SOCK_SEQPACKET pair; it ends at EOF there, its children live on.
One thread, no garbage collection, few imports: every child shares this memory until it writes to it.

A packet is one JSON object, with descriptors (SCM_RIGHTS). A body past `INLINE` bytes is in a memfd, the last descriptor,
and the packet is `@`. Requests carry `id` and `op`, answered in order by that `id` with `error` and `code` (a gRPC status
number) where they failed:

    preload  module, path, deadline                    import that module, with the daemon's sys.path
    fork     target, args, session [fds]               -> pid [pidfd]
    exec     argv, env, cwd, targets, session [fds]    -> pid [pidfd]

Unasked: `{"ended": pid, "status": n}`, n as os.waitstatus_to_exitcode gives it, once for every child.
"""

from __future__ import annotations

import array
import errno
import fcntl
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Any

    Message = dict[str, Any]

__all__ = ["FAILED", "INLINE", "main", "receive", "receive_packet", "send", "send_packet"]

#: Bytes of JSON that travel in the packet itself.
INLINE = 8192
#: The exit status of a forked function that raised.
FAILED = 70

_MAX_FDS = 253  # the kernel's SCM_MAX_FD
_FAILED_PRECONDITION = 9
_INVALID_ARGUMENT = 3


def send(sock: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """Send one message with descriptors; they stay the caller's. Raises OSError."""
    send_packet(sock, json.dumps(message, separators=(",", ":")).encode(), fds)


def receive(sock: socket.socket) -> tuple[Message, list[int]] | None:
    """The next message and its descriptors (close-on-exec, the caller's from now on), or None at EOF."""
    received = receive_packet(sock)
    return None if received is None else (json.loads(received[0]), received[1])


def send_packet(sock: socket.socket, body: bytes, fds: Sequence[int] = ()) -> None:
    """Send a body of any size but b"" and b"@", with descriptors; they stay the caller's. Raises OSError."""
    memfd = -1
    try:
        if len(body) > INLINE:
            memfd = os.memfd_create("message", os.MFD_CLOEXEC)
            os.writev(memfd, [body])
            body, fds = b"@", [*fds, memfd]
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        sock.sendmsg([body], ancillary, socket.MSG_NOSIGNAL)
    finally:
        if memfd >= 0:
            os.close(memfd)


def receive_packet(sock: socket.socket) -> tuple[bytes, list[int]] | None:
    """The next body and its descriptors (close-on-exec, the caller's from now on), or None at EOF. Raises OSError."""
    fds = array.array("i")
    try:
        body, ancillary, _, _ = sock.recvmsg(
            INLINE, socket.CMSG_SPACE(_MAX_FDS * fds.itemsize), socket.MSG_CMSG_CLOEXEC
        )
    except ConnectionResetError:
        return None
    for _, _, data in ancillary:
        fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    if not body:
        return None
    received = fds.tolist()
    if body == b"@":
        with open(received.pop(), "rb") as file:
            file.seek(0)
            body = file.read()
    return body, received


class _NotPreloaded:
    """First of sys.meta_path in a forked child: what is not loaded yet may be of another version by now."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        raise ImportError(
            f"{name} was not preloaded: a forked process imports nothing, list it in the plugin's `forked`"
        )


class _Server:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.wake, waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.settle()

    def serve(self) -> None:
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        poll.register(self.wake, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self.wake:
                    self.reap()
                    continue
                received = receive(self.sock)
                if received is None:
                    return
                self.answer(*received)

    def reap(self) -> None:
        try:
            os.read(self.wake, 4096)
        except BlockingIOError:
            pass
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            send(self.sock, {"ended": pid, "status": os.waitstatus_to_exitcode(status)})

    def answer(self, request: Message, fds: list[int]) -> None:
        operation = {"preload": self.preload, "fork": self.fork, "execute": self.exec}[request["op"]]
        pidfd = -1
        try:
            reply, pidfd = operation(request, fds)
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            reply = {"error": f"{error.strerror}{where}", "errno": error.errno or errno.EIO}
        for fd in fds:
            os.close(fd)
        reply["id"] = request["id"]
        send(self.sock, reply, [pidfd] if pidfd >= 0 else [])
        if pidfd >= 0:
            os.close(pidfd)

    def preload(self, request: Message, fds: list[int]) -> tuple[Message, int]:
        sys.path[:] = request["path"]
        importlib.invalidate_caches()
        # Ends this process should the import hang: the daemon does that sooner, but it may be gone.
        signal.setitimer(signal.ITIMER_REAL, request["deadline"] + 1)
        try:
            importlib.import_module(request["module"])
            why = _threads_left()
        except BaseException as error:
            why = _in_one_line(error)
        signal.setitimer(signal.ITIMER_REAL, 0)
        if why:
            return {"error": why, "code": _FAILED_PRECONDITION}, -1
        self.settle()
        return {}, -1

    def settle(self) -> None:
        """Whatever was imported: nothing of it is inherited by commands, found by a child late, or moved by the collector."""
        for fd in map(int, os.listdir("/proc/self/fd")):
            if fd > 2:
                try:
                    os.set_inheritable(fd, False)
                except OSError:
                    pass  # the listing's own
        self.handled = [number for number in signal.valid_signals() if callable(signal.getsignal(number))]
        gc.disable()
        gc.collect()
        gc.freeze()

    def fork(self, request: Message, fds: list[int]) -> tuple[Message, int]:
        module, _, name = request["target"].partition(":")
        if module not in sys.modules:
            return {"error": f"{module} was not preloaded", "code": _FAILED_PRECONDITION}, -1
        function: Any = sys.modules[module]
        try:
            for part in name.split("."):
                function = getattr(function, part)
        except AttributeError:
            return {"error": f"{module} has no function {name!r}", "code": _INVALID_ARGUMENT}, -1
        pid = os.fork()  # noqa: TID251 - this process has one thread, so that it can
        if pid == 0:
            try:
                _become_child(request["session"], fds, self.handled)
                _run(function, module, request["args"], fds)
            finally:
                os._exit(FAILED)
        return {"pid": pid}, os.pidfd_open(pid)

    def exec(self, request: Message, fds: list[int]) -> tuple[Message, int]:
        targets, argv = request["targets"], request["argv"]
        env = os.environ if request["env"] is None else request["env"]
        # Out of the way first, so that no dup2 overwrites a source that is still to come.
        above = max([*targets, 2]) + 1
        sources = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for fd in fds]
        actions = [(os.POSIX_SPAWN_DUP2, source, target) for source, target in zip(sources, targets, strict=True)]
        try:
            os.chdir(request["cwd"])
            for path in _candidates(argv[0], env):
                try:
                    pid = os.posix_spawn(
                        path,
                        argv,
                        env,
                        file_actions=actions,
                        setsid=request["session"],
                        setsigmask=(),
                        setsigdef=(
                            signal.SIGPIPE,
                            signal.SIGXFSZ,
                        ),  # ignored by Python, which a command does not expect
                    )
                    return {"pid": pid}, os.pidfd_open(pid)
                except (FileNotFoundError, NotADirectoryError):
                    continue
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), argv[0])
        finally:
            os.chdir("/")
            for fd in sources:
                os.close(fd)


def _candidates(command: str, env: Mapping[str, str]) -> list[str]:
    if "/" in command:
        return [command]
    return [os.path.join(folder, command) for folder in env.get("PATH", os.defpath).split(os.pathsep)]


def _threads_left() -> str:
    """Why the process can no longer fork safely, or "". A joined thread may stay in /proc for an instant."""
    for _ in range(20):
        count = len(os.listdir("/proc/self/task")) - 1
        if not count:
            return ""
        time.sleep(0.005)
    threading = sys.modules.get("threading")
    names = [thread.name for thread in threading.enumerate()[1:]] if threading else []
    return f"the import left {count} thread(s) running {names or ''}".rstrip()


def _become_child(session: bool, keep: Iterable[int], handled: Iterable[int]) -> None:
    """Nothing of the server's but memory: signals, session, directory and descriptors as a new process has them."""
    signal.set_wakeup_fd(-1)
    for number in handled:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if session:
        os.setsid()
    os.chdir("/")
    low = 3
    for fd in sorted(keep):
        os.closerange(low, fd)
        low = max(low, fd + 1)
    os.closerange(low, os.sysconf("SC_OPEN_MAX"))


def _run(function: Callable[[Any, list[int]], int | None], module: str, args: Any, fds: list[int]) -> None:
    sys.meta_path.insert(0, _NotPreloaded)
    _name_process(module.rpartition(".")[2])
    gc.enable()
    try:
        status = function(args, fds) or 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException as error:
        os.write(2, f"{module}: {_in_one_line(error)}\n".encode(errors="replace"))
        status = FAILED
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status & 0xFF)


def _in_one_line(error: BaseException) -> str:
    """`Type: message [file:line function < its caller ...]`, innermost first."""
    steps = []
    traceback: TracebackType | None = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if code.co_filename != __file__ and not code.co_filename.startswith("<frozen"):
            steps.append(f"{code.co_filename}:{traceback.tb_lineno} {code.co_name}")
        traceback = traceback.tb_next
    where = f" [{' < '.join(reversed(steps))}]" if steps else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{where}"


def _name_process(name: str) -> None:
    fd = os.open("/proc/self/comm", os.O_WRONLY)
    os.write(fd, name[:15].encode())
    os.close(fd)


def main(fd: int) -> None:
    """Serve on the socket `fd` until EOF. Standard output goes where standard error goes, standard input nowhere."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(2, 1)
    sock = socket.socket(fileno=os.dup(fd))
    os.closerange(3, sock.fileno())
    os.closerange(sock.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
    os.chdir("/")
    os.setsid()  # a terminal's Ctrl-C is for the daemon alone
    _name_process("imod-spawner")
    try:
        _Server(sock).serve()
    except (BrokenPipeError, ConnectionResetError):
        pass  # the daemon ended while it was being told something
    os._exit(0)
