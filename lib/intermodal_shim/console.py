"""A terminal for a process: the runtime makes it and sends its master over the console socket."""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
import termios

__all__ = ["ConsoleSocket", "resize"]


class ConsoleSocket:
    """A socket `name` in `directory` for the runtime's --console-socket; `path` is a name of it that is always short enough.

    It is made to be asked once, after the runtime's command has ended: what that sent waits here.
    """

    def __init__(self, directory: str, name: str) -> None:
        self._name = name
        self._directory = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self.path = f"/proc/{os.getpid()}/fd/{self._directory}/{name}"
        try:
            self._unlink()
            self._sock.bind(self.path)
            self._sock.listen(1)
        except BaseException:
            self.close()
            raise

    def receive(self) -> int:
        """The terminal's master, or -1 when none was sent."""
        try:
            peer, _ = self._sock.accept()
        except BlockingIOError:
            return -1
        fds = array.array("i")
        with peer:
            peer.setblocking(False)
            try:
                _, ancillary, _, _ = peer.recvmsg(4096, socket.CMSG_SPACE(fds.itemsize), socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return -1
        for _, kind, data in ancillary:
            if kind == socket.SCM_RIGHTS:
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        return fds[0] if fds else -1

    def close(self) -> None:
        """Remove it."""
        self._unlink()
        self._sock.close()
        os.close(self._directory)

    def _unlink(self) -> None:
        try:
            os.unlink(self._name, dir_fd=self._directory)
        except FileNotFoundError:
            pass


def resize(master: int, width: int, height: int) -> None:
    """Set a terminal's size in characters. Raises OSError."""
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
