"""The process of a foreign shim, whose pid only the shim itself has told."""

from __future__ import annotations

import os
import select
import signal

__all__ = ["end_shim"]

_END_WITHIN = 5000


def end_shim(pid: int, binary: str, within: float) -> None:
    """Wait `within` seconds for the shim's end, then kill it, provided that it is a process of that binary.

    A shim may lie about its pid.
    """
    if pid <= 1:
        return
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if not _is_of(pid, binary):
            return
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(within * 1000):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            poll.poll(_END_WITHIN)
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)


def _is_of(pid: int, binary: str) -> bool:
    """Whether it executes the file, or a script of that path."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = [os.fsdecode(word) for word in file.read().split(b"\0")]
        return os.path.realpath(binary) in (os.readlink(f"/proc/{pid}/exe"), *map(os.path.realpath, words[:3]))
    except OSError:
        return False
