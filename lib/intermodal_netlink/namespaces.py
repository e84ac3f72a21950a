"""Network namespaces: made, kept by a mount, removed; sockets opened and sysctls set inside them.

`Keeper` asks a process of its own, which the spawner forks when it is first needed: no thread of the daemon ever leaves its
namespace, and what is opened inside comes back as a descriptor. `Local` does the same on a short-lived thread, for a
program that is not the daemon.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket as sockets
import struct
import sys
import threading
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, TypeVar
from weakref import WeakKeyDictionary

from intermodal_core.errors import IntermodalError, InvalidArgument, NotFound, Unavailable, by_code, from_os_error
from intermodal_core.forkserver import receive, send
from intermodal_core.spawner import Spawner
from intermodal_core.syscalls import CLONE_NEWNET, MNT_DETACH, MS_BIND, mount, setns, umount, unshare

__all__ = ["Keeper", "Local", "Namespaces", "is_namespace", "remove"]

T = TypeVar("T")

_SIOCSIFFLAGS, _IFF_UP = 0x8914, 0x1
_NSFS_MAGIC = 0x6E736673
_SECONDS = 20
_libc = ctypes.CDLL(None, use_errno=True)


class Namespaces(Protocol):
    """What may be asked of a network namespace, which is named by the path that keeps it; "" is this process's own.

    Raises NotFound for a path that keeps none, and else as the system call: from_os_error.
    """

    def make(self, path: str) -> None:
        """A new one, whose loopback is up, kept by a mount on the new file `path`."""

    def socket(self, path: str, family: int, type: int, protocol: int = 0) -> sockets.socket:
        """A socket inside."""

    def sysctl(self, path: str, name: str, value: str | None = None) -> str:
        """Set `net.NAME` (with slashes: ipv4/ip_forward) where `value` is given and differs; what it was."""


def is_namespace(path: str) -> bool:
    """Whether `path` keeps a namespace."""
    buffer = (ctypes.c_uint64 * 32)()
    if _libc.statfs(os.fsencode(path), buffer) != 0:
        return False
    return int(buffer[0]) & 0xFFFFFFFF == _NSFS_MAGIC


def remove(path: str) -> None:
    """Let go of a namespace that `make` made; idempotent. What has it open keeps it."""
    while True:
        try:
            umount(path, MNT_DETACH)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise from_os_error(error, "let go of a network namespace") from error
            break
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


class Local:
    """Implements `Namespaces` on threads of this process."""

    def make(self, path: str) -> None:
        """As the protocol says."""
        self._on_thread(lambda: _make(path))

    def socket(self, path: str, family: int, type: int, protocol: int = 0) -> sockets.socket:
        """As the protocol says."""
        if not path:
            return sockets.socket(family, type | sockets.SOCK_CLOEXEC, protocol)
        return self._inside(path, lambda: sockets.socket(family, type | sockets.SOCK_CLOEXEC, protocol))

    def sysctl(self, path: str, name: str, value: str | None = None) -> str:
        """As the protocol says."""
        return _sysctl(name, value) if not path else self._inside(path, lambda: _sysctl(name, value))

    def _inside(self, path: str, work: Callable[[], T]) -> T:
        def run() -> T:
            _enter(path)
            return work()

        return self._on_thread(run)

    def _on_thread(self, work: Callable[[], T]) -> T:
        done: list[T] = []
        raised: list[BaseException] = []

        def run() -> None:
            try:
                done.append(work())
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=run, name="namespace")
        thread.start()
        thread.join()
        if not raised:
            return done[0]
        if isinstance(raised[0], OSError):
            raise from_os_error(raised[0], "work in a network namespace") from raised[0]
        raise raised[0]


class Keeper:
    """Implements `Namespaces` by a process of its own, forked by the spawner, which must have preloaded this module.

    `of(spawner)` is the one that all of a daemon share.
    """

    _shared: ClassVar[WeakKeyDictionary[Spawner, Keeper]] = WeakKeyDictionary()

    @classmethod
    def of(cls, spawner: Spawner) -> Keeper:
        """The one that all who use this spawner share."""
        return cls._shared.setdefault(spawner, cls(spawner))

    def __init__(self, spawner: Spawner) -> None:
        self._spawner = spawner
        self._lock = threading.Lock()
        self._sock: sockets.socket | None = None

    def make(self, path: str) -> None:
        """As the protocol says."""
        sys.audit("intermodal.step", "namespace.make")
        self._ask("make", path)

    def socket(self, path: str, family: int, type: int, protocol: int = 0) -> sockets.socket:
        """As the protocol says."""
        if not path:
            return sockets.socket(family, type | sockets.SOCK_CLOEXEC, protocol)
        _, fds = self._ask("socket", path, family, type, protocol)
        return sockets.socket(fileno=fds[0])

    def sysctl(self, path: str, name: str, value: str | None = None) -> str:
        """As the protocol says."""
        if not path:
            try:
                return _sysctl(name, value)
            except OSError as error:
                raise from_os_error(error, f"set net.{name}") from error
        if value is not None:
            sys.audit("intermodal.step", "namespace.sysctl")
        answer, _ = self._ask("sysctl", path, name, value)
        return str(answer)

    def close(self) -> None:
        """End the process."""
        with self._lock:
            if self._sock is not None:
                self._sock.close()
                self._sock = None

    def _ask(self, operation: str, *arguments: Any) -> tuple[Any, list[int]]:
        with self._lock:
            for _ in range(2):
                sock = self._sock or self._begin()
                try:
                    send(sock, {"op": operation, "args": list(arguments)})
                    answer = receive(sock)
                except (OSError, TimeoutError):
                    answer = None
                if answer is not None:
                    break
                sock.close()  # it ended; what was asked is done anew, or was done and says so
                self._sock = None
            else:
                raise Unavailable("the process that keeps network namespaces ended twice over one request")
        message, fds = answer
        if "code" in message:
            raise by_code(message["code"], message["message"])
        if "errno" in message:
            failed = OSError(message["errno"], os.strerror(message["errno"]), message["file"])
            raise from_os_error(failed, f"network namespace: {operation}")
        return message["answer"], fds

    def _begin(self) -> sockets.socket:
        ours, theirs = sockets.socketpair(sockets.AF_UNIX, sockets.SOCK_SEQPACKET)
        with theirs:
            self._spawner.fork("intermodal_netlink.namespaces:serve", [], [theirs.fileno()]).close()
        ours.settimeout(_SECONDS)
        self._sock = ours
        return ours


def serve(arguments: list[Any], fds: list[int]) -> None:
    """The keeper's process: requests come on the socket `fds[0]` until it ends."""
    sock = sockets.socket(fileno=fds[0])
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    while (received := receive(sock)) is not None:
        request, _ = received
        opened: list[sockets.socket] = []
        try:
            try:
                answer = {"answer": _do(request["op"], request["args"], opened)}
            finally:
                setns(home, CLONE_NEWNET)
        except IntermodalError as error:
            answer = {"code": error.code, "message": error.message}
        except OSError as error:
            answer = {"errno": error.errno or errno.EIO, "file": str(error.filename or "")}
        send(sock, answer, [each.fileno() for each in opened])
        for each in opened:
            each.close()


def _do(operation: str, arguments: list[Any], opened: list[sockets.socket]) -> Any:
    if operation == "make":
        return _make(arguments[0])
    _enter(arguments[0])
    if operation == "sysctl":
        return _sysctl(arguments[1], arguments[2])
    family, type, protocol = arguments[1:]
    opened.append(sockets.socket(family, type | sockets.SOCK_CLOEXEC, protocol))
    return None


def _make(path: str) -> None:
    if is_namespace(path):
        return
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o444))
    unshare(CLONE_NEWNET)
    with sockets.socket(sockets.AF_INET, sockets.SOCK_DGRAM | sockets.SOCK_CLOEXEC) as sock:
        request = struct.pack("16sH14x", b"lo", _IFF_UP)
        fcntl.ioctl(sock, _SIOCSIFFLAGS, request)
    mount("/proc/thread-self/ns/net", path, "", MS_BIND)


def _enter(path: str) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        raise NotFound(f"{path} keeps no network namespace: it may have been removed") from None
    try:
        setns(fd, CLONE_NEWNET)
    except OSError:
        raise NotFound(f"{path} is no network namespace") from None
    finally:
        os.close(fd)


def _sysctl(name: str, value: str | None) -> str:
    path = f"/proc/sys/net/{name}"
    try:
        with open(path) as file:
            before = file.read().strip()
    except FileNotFoundError:
        raise InvalidArgument(f"there is no sysctl net.{name.replace('/', '.')} in this namespace") from None
    if value is not None and before != value:
        with open(path, "w") as file:
            file.write(value)
    return before
