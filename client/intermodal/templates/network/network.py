"""A network of one: the container's own namespace, in which the loopback interface is up, and nothing else."""

from __future__ import annotations

import fcntl
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from intermodal_core.contracts.networks import Attachment, AttachResult
from intermodal_core.errors import FailedPrecondition, InvalidArgument, from_os_error
from intermodal_core.syscalls import CLONE_NEWNET, setns

__all__ = ["SampleNetwork"]

T = TypeVar("T")

_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 0x1  # netdevice(7)


class SampleNetwork:
    """Implements `intermodal_core.contracts.networks.Network`, with the capability `netns`."""

    def attach(self, attachment: Attachment) -> AttachResult:
        """[N1] Bring the loopback interface up."""
        if not attachment.netns:
            raise InvalidArgument(f"{attachment.container} has no network namespace: this network needs one")
        try:
            _inside(attachment.netns, lambda: _set_loopback(up=True))
        except OSError as error:
            raise from_os_error(error, f"attach {attachment.container}") from error
        return AttachResult("path", attachment.netns)

    def detach(self, attachment: Attachment, result: bytes) -> None:
        """[N2] Bring it down, where there is still a namespace."""
        with suppress(OSError):
            _inside(attachment.netns, lambda: _set_loopback(up=False))

    def check(self, attachment: Attachment, result: bytes) -> None:
        """[N3] Look whether it is up."""
        try:
            is_up = _inside(attachment.netns, _loopback_is_up)
        except OSError as error:
            raise FailedPrecondition(f"the namespace of {attachment.container} is gone: {error}") from error
        if not is_up:
            raise FailedPrecondition(f"the loopback interface of {attachment.container} is down: attach it again")

    def gc(self, live: tuple[Attachment, ...]) -> None:
        """[N4] All that is made lies in the namespace and goes with it."""


def _inside(netns: str, work: Callable[[], T]) -> T:
    """Do something in a network namespace: a thread can be in another one than the rest of its process."""
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            with open(netns, "rb") as file:
                setns(file.fileno(), CLONE_NEWNET)
            results.append(work())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    for failure in failures:
        raise failure
    return results[0]


def _loopback_flags(link: socket.socket) -> int:
    request = struct.pack("16sH14x", b"lo", 0)
    (flags,) = struct.unpack_from("16xH", fcntl.ioctl(link, _GET_FLAGS, request))
    return int(flags)


def _loopback_is_up() -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        return bool(_loopback_flags(link) & _UP)


def _set_loopback(up: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        flags = _loopback_flags(link)
        flags = flags | _UP if up else flags & ~_UP
        fcntl.ioctl(link, _SET_FLAGS, struct.pack("16sH14x", b"lo", flags))
