"""A shim at rest: its state moves into a process that has run nothing since the zygote, whose memory is all shared.

Making and starting a container writes to 600 pages (2.4 MB), most of them by counting references to code, names and
classes that lie among others which nobody touches. So a shim is two processes at first. The first, which is the shim to everybody
else, only waits; its child serves. Once the container runs and nothing is under way, the child sends its state, with all
descriptors, and ends; the first goes on with the same descriptor numbers, and inherits the container's processes, being a
subreaper. At rest it has 0.8 MB of its own. Should the child end without that, the shim ends.

What can be pickled is at rest: a closure among the callbacks belongs to a command or an answer that is under way. A shim
that is never found at rest stays as it is, and costs more memory.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import io
import os
import pickle
import select
import signal
import socket
from typing import Any

from intermodal_core import syscalls

from intermodal_shim.loop import Loop
from intermodal_shim.service import SERVICES

__all__ = ["Mover", "divide", "fork", "rest"]

#: Bytes of state, and descriptors, that travel in one packet; a shim with more stays.
_PACKET = 64 << 10
_INT = array.array("i").itemsize
_MAX_FDS = 253  # the kernel's SCM_MAX_FD
_PR_SET_PDEATHSIG = 1
# libc's own. os.fork runs what Python registers for children that go on with threads; those hooks write to a hundred
# pages, and neither a zygote nor a shim ever has a thread. PyDLL keeps the interpreter's lock held meanwhile.
_fork = ctypes.PyDLL(None, use_errno=True).fork


def fork() -> int:
    """As os.fork, for a process without threads. Returns a negative errno where there can be no more processes."""
    pid: int = _fork()
    return pid if pid >= 0 else -ctypes.get_errno()


class Mover:
    """The serving process's end of the way to the first one."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def move(self, shim: object, loop: Loop) -> None:
        """Hand `shim` over, with all descriptors but its poller, and end this process. Returns if it cannot be moved now."""
        watched = loop.watched()
        stays = {0, 1, 2, self._sock.fileno(), loop.descriptor()}
        numbers = sorted(set(_descriptors()) - stays)
        state = io.BytesIO()
        try:
            _Pickler(state, pickle.HIGHEST_PROTOCOL).dump(shim)
        except (pickle.PicklingError, TypeError, AttributeError):
            return
        head = [len(numbers), loop.waker, loop.milliseconds(), *numbers, *(watched.get(fd, 0) for fd in numbers)]
        packet = array.array("i", head).tobytes() + state.getvalue()
        if len(numbers) > _MAX_FDS or len(packet) > _PACKET or not _can_be_read(state.getvalue()):
            return
        loop.drain()  # of the trial's end; who else has ended is looked for before the rest
        try:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", numbers))
            self._sock.sendmsg([packet], [rights], socket.MSG_NOSIGNAL)
        except OSError:
            return  # too many descriptors under way in the system
        os._exit(0)


def divide() -> tuple[Mover | None, socket.socket | None, int]:
    """Fork the process that serves. In it: (its mover, None, 0); in the first: (None, the other end, its pid).

    (None, None, 0): there can be no second process, and this one serves.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, the kernel would reap
    first = os.getpid()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = fork()
    if pid < 0:
        ours.close()
        theirs.close()
        return None, None, 0
    if pid:
        theirs.close()
        return None, ours, pid
    ours.close()
    syscalls.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != first:
        os._exit(1)
    return Mover(theirs), None, 0


def rest(sock: socket.socket, pid: int) -> Any:
    """Wait for the state of the process `pid`, and then until there is something to do: the shim as it was there.

    None if that process ended otherwise. The state is only bytes until then.
    """
    packet, ancillary, _, _ = sock.recvmsg(_PACKET, socket.CMSG_SPACE(_MAX_FDS * _INT), socket.MSG_CMSG_CLOEXEC)
    os.waitpid(pid, 0)
    sock.close()
    if not packet:
        return None
    count, waker, timeout = array.array("i", packet[: 3 * _INT])
    start, end = 3 * _INT, (3 + 2 * count) * _INT
    table = array.array("i", packet[start:end])
    _renumber(array.array("i", ancillary[0][2]), table[:count])
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, _noted)
    poll = select.epoll()
    for fd, events in zip(table[:count], table[count:], strict=True):
        if events:
            poll.register(fd, events)
    if not _child_ended():
        poll.poll(timeout / 1000)
    poll.close()
    return _Unpickler(io.BytesIO(packet[end:])).load()


def _child_ended() -> bool:
    """Whether one did before there was a handler; without children there is nothing to rest for."""
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _renumber(fds: array.array[int], numbers: array.array[int]) -> None:
    # Out of the way first, so that no dup2 overwrites one that is still to come.
    above = max(*numbers, *fds) + 1
    for index, fd in enumerate(fds):
        fds[index] = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above)
        os.close(fd)
    for fd, number in zip(fds, numbers, strict=True):
        os.dup2(fd, number, inheritable=False)
        os.close(fd)


def _noted(*_: object) -> None:
    """The wake-up pipe says it."""


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: object) -> str | None:
        """The tables of services are in every shim."""
        return "services" if value is SERVICES else None

    def reducer_override(self, value: Any) -> Any:
        """A socket is its descriptor."""
        if type(value) is socket.socket and value.fileno() >= 0:
            return _socket, (value.fileno(), int(value.family), int(value.type), value.proto)
        if type(value) is socket.socket:
            return _closed_socket, ()
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    def persistent_load(self, name: str) -> object:
        """As `_Pickler` names them."""
        return SERVICES


def _socket(fd: int, family: int, kind: int, proto: int) -> socket.socket:
    sock = socket.socket(family, kind, proto, fd)
    sock.setblocking(False)
    return sock


def _closed_socket() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.close()
    return sock


def _can_be_read(state: bytes) -> bool:
    """Tried in a process of its own: a state that cannot be read would be the end of the shim."""
    pid = fork()
    if pid == 0:
        try:
            _Unpickler(io.BytesIO(state)).load()
            os._exit(0)
        finally:
            os._exit(1)
    return pid > 0 and os.waitpid(pid, 0)[1] == 0


def _descriptors() -> list[int]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            fcntl.fcntl(int(name), fcntl.F_GETFD)
        except OSError:
            continue  # the listing's own
        found.append(int(name))
    return found
