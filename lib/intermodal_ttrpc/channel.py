"""A connected unix socket that carries frames both ways and never blocks.

The poller it runs on is anything with the four methods of `Poller`: an asyncio loop, or a shim's own.
"""

from __future__ import annotations

import array
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from intermodal_ttrpc import framing
from intermodal_ttrpc.framing import Frame

__all__ = ["Channel", "Poller", "bind", "connect"]

_READ = 64 << 10
_MAX_FDS = 16
_ANCILLARY = socket.CMSG_SPACE(_MAX_FDS * 4)
#: With more than this waiting to be written, a server's channel reads nothing more until the peer has taken it.
_HIGH_WATER = 1 << 20


class Poller(Protocol):
    """Calls back when a descriptor is ready."""

    def add_reader(self, fd: int, callback: Callable[..., Any], *args: Any) -> Any:
        """Call `callback(*args)` while `fd` is readable."""

    def remove_reader(self, fd: int) -> Any:
        """Stop."""

    def add_writer(self, fd: int, callback: Callable[..., Any], *args: Any) -> Any:
        """Call `callback(*args)` while `fd` is writable."""

    def remove_writer(self, fd: int) -> Any:
        """Stop."""


class Channel:
    """Frames over `sock`, which it owns.

    `on_frame(channel, frame)` is called for each frame, `on_close(channel)` once, when the peer or `close` ended it.
    `holding` is for a server: a peer that does not read is not read from either. Were both sides to hold, they could wait
    for each other.
    """

    __slots__ = (
        "_decoder",
        "_holding",
        "_on_close",
        "_on_frame",
        "_outbox",
        "_paused",
        "_poller",
        "_sock",
        "_waiting",
        "closed",
    )

    def __init__(
        self,
        sock: socket.socket,
        poller: Poller,
        on_frame: Callable[[Channel, Frame], None],
        on_close: Callable[[Channel], None],
        holding: bool = False,
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._poller = poller
        self._on_frame = on_frame
        self._on_close = on_close
        self._decoder = framing.Decoder()
        self._outbox: deque[tuple[memoryview, tuple[int, ...]]] = deque()
        self._waiting = 0
        self._holding = holding
        self._paused = False
        self.closed = False
        poller.add_reader(sock.fileno(), self._readable)

    def send(self, frame: bytes, fds: Sequence[int] = ()) -> None:
        """Write the frame, now or when the peer takes it; descriptors are duplicated where it has to wait."""
        if self.closed:
            return
        if not self._outbox:
            sent = self._write(frame, fds)
            if sent < 0 or sent == len(frame):
                return
            rest = memoryview(frame)[sent:]
            kept = () if sent else tuple(os.dup(fd) for fd in fds)
            self._poller.add_writer(self._sock.fileno(), self._writable)
        else:
            rest, kept = memoryview(frame), tuple(os.dup(fd) for fd in fds)
        self._outbox.append((rest, kept))
        self._waiting += len(rest)
        if self._holding and self._waiting > _HIGH_WATER and not self._paused:
            self._paused = True
            self._poller.remove_reader(self._sock.fileno())

    def close(self) -> None:
        """End the connection; what was not written is lost."""
        if self.closed:
            return
        self.closed = True
        fd = self._sock.fileno()
        self._poller.remove_reader(fd)
        self._poller.remove_writer(fd)
        self._sock.close()
        for _, fds in self._outbox:
            _close_all(fds)
        self._outbox.clear()
        _close_all(self._decoder.pending_fds())
        self._on_close(self)

    def _write(self, data: bytes | memoryview, fds: Sequence[int]) -> int:
        """Bytes written, 0 when the socket is full, -1 when the connection is gone (and now closed)."""
        try:
            if fds:
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
                return self._sock.sendmsg([data], [rights], socket.MSG_NOSIGNAL)
            return self._sock.send(data, socket.MSG_NOSIGNAL)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            self.close()
            return -1

    def _writable(self) -> None:
        while self._outbox:
            data, fds = self._outbox[0]
            sent = self._write(data, fds)
            if sent <= 0:
                return
            _close_all(fds)
            self._waiting -= sent
            if sent < len(data):
                self._outbox[0] = (data[sent:], ())
            else:
                self._outbox.popleft()
        self._poller.remove_writer(self._sock.fileno())
        if self._paused:
            self._paused = False
            self._poller.add_reader(self._sock.fileno(), self._readable)

    def _readable(self) -> None:
        try:
            data, ancillary, _, _ = self._sock.recvmsg(_READ, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()
            return
        fds = array.array("i")
        for level, kind, rights in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(rights[: len(rights) - len(rights) % fds.itemsize])
        if not data:
            _close_all(fds)
            self.close()
            return
        for frame in self._decoder.feed(data, fds):
            if self.closed:
                _close_all(frame.fds)
            else:
                self._on_frame(self, frame)


def connect(path: str) -> socket.socket:
    """A non-blocking socket connected to the unix socket at `path`, however long the path is.

    Raises OSError: ENOENT or ECONNREFUSED when nobody listens, EAGAIN when the listener's queue is full.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        _at(path, sock.connect)
    except BaseException:
        sock.close()
        raise
    return sock


def bind(path: str, mode: int = 0o600, backlog: int = 64) -> socket.socket:
    """A non-blocking listening unix socket at `path`, however long the path is; a socket left there is replaced."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        os.fchmod(sock.fileno(), mode)
        _at(path, sock.bind)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def _at(path: str, use: Callable[[str], None]) -> None:
    """Call `use` with a name of `path` that fits into sun_path (108 bytes)."""
    if len(os.fsencode(path)) < 108:
        use(path)
        return
    directory, name = os.path.split(path)
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        use(f"/proc/self/fd/{fd}/{name}")
    finally:
        os.close(fd)


def _close_all(fds: Sequence[int] | array.array[int]) -> None:
    for fd in fds:
        os.close(fd)
