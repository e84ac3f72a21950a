"""What the spawner preloads and forks; loading it readies the code. Only a spawner imports it."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from typing import Any

from intermodal_shim.main import REQUEST, Shim, main
from intermodal_shim.rest import fork
from intermodal_shim.warm import rehearse

__all__ = ["zygote"]

_POOL = 16 << 10
_MAX_FILLERS = 4096
_BYTES_OVERHEAD = sys.getsizeof(b"")


def zygote(args: list[Any], fds: list[int], shim_type: type[Shim] = Shim) -> int:
    """Make a shim for each packet on the socket `fds[0]`: the arguments of a `Shim`, joined by NUL, and its socket. Until EOF.

    The answer is the pid, or a negative errno. One shim is always there already and waits to be told what it is: forking takes
    two milliseconds, which no container has to wait for.
    """
    control = socket.socket(fileno=fds[0])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for shims: who needs to know of their ends has pidfds
    gc.disable()
    gc.freeze()
    filler = _fill_pools()  # noqa: F841 - held for as long as the zygote lives
    pid, way = _fork_shim()
    while pid:
        try:
            request, received, _, _ = socket.recv_fds(control, REQUEST, 1, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            return 0  # the daemon was killed, with an answer not taken yet
        if not request:
            return 0
        if pid < 0 or not _tell(way, request, received):  # there could be none, or it was killed
            way.close()
            pid, way = _fork_shim()
            if not pid:
                os.close(received[0])
                break
            if pid > 0 and not _tell(way, request, received):
                pid = -1
        os.close(received[0])
        try:
            control.send(b"%d" % pid)
        except OSError:
            return 0  # the daemon is gone
        way.close()
        pid, way = _fork_shim()
    control.close()
    return main(way, shim_type)


def _fork_shim() -> tuple[int, socket.socket]:
    """Its pid, or a negative errno, and where to tell it what it is; in the shim itself 0, and where it is told."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = fork()
    if pid == 0:
        ours.close()
        # A group of its own, but the zygote's session: a new one is a new scheduling group, which costs each start.
        os.setpgid(0, 0)
        return pid, theirs
    theirs.close()
    return pid, ours


def _tell(way: socket.socket, request: bytes, fds: list[int]) -> bool:
    try:
        socket.send_fds(way, [request], fds)
    except OSError:
        return False
    return True


def _fill_pools() -> list[object]:
    """Objects in every hole that small objects leave, so that a shim's own ones lie together in pages of their own.

    Python's allocator has pools of 16 KiB for each size up to 512 bytes, and reuses what is free in the old ones first.
    """
    filler: list[object] = []
    for size in range(16, 513, 16):
        fresh, pool, count = 0, 0, 0
        while fresh < (_POOL // size) // 2 and count < _MAX_FILLERS:
            made: object = (
                object() if size == 16 else (1 << 40) + count if size == 32 else bytes(size - _BYTES_OVERHEAD)
            )
            filler.append(made)
            fresh = fresh + 1 if id(made) // _POOL == pool else 0
            pool = id(made) // _POOL
            count += 1
    return filler


rehearse()
