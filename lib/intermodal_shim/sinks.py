"""Where a process's output goes: FIFOs, appended files, logger binaries, CRI logs, attached descriptors."""

from __future__ import annotations

import os
import socket
import stat

from intermodal_core.errors import InvalidArgument, from_os_error

__all__ = ["FileSink", "PipeSink", "Sink", "SocketSink", "open_attached", "open_file", "open_path", "reopen"]


class Sink:
    """Takes output; what it could not take yet is `pending`, and no more is written to it until `flush` emptied that.

    `hold`: the process waits for this sink when it is full. Otherwise what does not fit is lost. `fd` can be polled for
    room, or is -1 for a sink that always has room. `broken`: nobody is there any more.
    """

    __slots__ = ("broken", "fd", "hold", "pending")

    def __init__(self, fd: int, hold: bool) -> None:
        self.fd = fd
        self.hold = hold
        self.pending: bytes | memoryview = b""
        self.broken = False

    def write(self, data: bytes) -> None:
        """Take the data, or what fits and keep the rest pending."""
        if self.broken:
            return
        self.pending = data
        self.flush()
        if not self.hold:
            self.pending = b""

    def flush(self) -> None:
        """Write what is pending as far as there is room."""
        while self.pending:
            try:
                written = self._put(self.pending)
            except BlockingIOError:
                return
            except OSError:
                self.broken = True
                self.pending = b""
                return
            self.pending = memoryview(self.pending)[written:] if written < len(self.pending) else b""

    def close(self) -> None:
        """Let go of it; what is pending is lost."""
        self.pending = b""
        self.broken = True
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _put(self, data: bytes | memoryview) -> int:
        return os.write(self.fd, data)


class PipeSink(Sink):
    """A pipe or FIFO, or a terminal; non-blocking."""

    __slots__ = ()


class SocketSink(Sink):
    """A connected stream socket, whose blocking mode is its owner's business."""

    __slots__ = ("_sock",)

    def __init__(self, fd: int, hold: bool) -> None:
        super().__init__(fd, hold)
        self._sock = socket.socket(fileno=fd)

    def close(self) -> None:
        """As every sink."""
        if self.fd >= 0:
            self._sock.detach()
        super().close()

    def _put(self, data: bytes | memoryview) -> int:
        return self._sock.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


class FileSink(Sink):
    """A file, which always has room; `hold` does not matter."""

    __slots__ = ("_file",)

    def __init__(self, fd: int) -> None:
        super().__init__(-1, False)
        self._file = fd

    def close(self) -> None:
        """As every sink."""
        super().close()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _put(self, data: bytes | memoryview) -> int:
        return os.write(self._file, data)


def open_path(path: str) -> Sink:
    """The sink for a path of a client: a FIFO that it made, else a file to append to.

    The FIFO is opened for reading too, so that opening waits for no reader and a reader that goes does not end the process.
    Raises the error by meaning.
    """
    try:
        if stat.S_ISFIFO(os.stat(path).st_mode):
            return PipeSink(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC), hold=True)
        return FileSink(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC))
    except OSError as error:
        raise from_os_error(error, "opening an output") from error


def open_file(path: str) -> Sink:
    """The sink for `file://path`: created where it is missing, with its directory, and appended to."""
    if not os.path.isabs(path):
        raise InvalidArgument(f"file://{path} is no absolute path; write file:///PATH")
    try:
        os.makedirs(os.path.dirname(path), mode=0o711, exist_ok=True)
        return FileSink(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640))
    except OSError as error:
        raise from_os_error(error, "opening an output") from error


def open_attached(fd: int, hold: bool) -> Sink:
    """A sink of its own for a descriptor that came with an attach; it takes the descriptor.

    A pipe and a terminal are opened anew, so that they are non-blocking here and stay as they were for their owner.
    """
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return FileSink(fd)
    if stat.S_ISSOCK(mode):
        return SocketSink(fd, hold)
    return PipeSink(reopen(fd, os.O_WRONLY), hold)


def reopen(fd: int, access: int) -> int:
    """A non-blocking descriptor for the same pipe or terminal; it takes `fd`. Raises the error by meaning."""
    try:
        return os.open(f"/proc/self/fd/{fd}", access | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise from_os_error(error, "opening an attached descriptor") from error
    finally:
        os.close(fd)
