"""Forks shims from a process that does nothing else, so that they share as much of their memory as can be.

Whatever a parent writes between two forks, each child keeps its own old copy of: a spawner that decodes requests and
keeps books costs every shim a megabyte. `zygote` only receives and forks. It is itself forked by the daemon's spawner.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import json
import os
import signal
import socket
import sys
from collections import deque
from typing import Any

from intermodal_core.errors import Unavailable
from intermodal_core.spawner import Spawner

from intermodal_shim.main import main

__all__ = ["Zygote", "zygote"]

_REQUEST = 16 << 10
_ANSWER = 32
_POOL = 16 << 10
_MAX_FILLERS = 4096
_BYTES_OVERHEAD = sys.getsizeof(b"")
# libc's own. os.fork runs what Python registers for children that go on with threads; those hooks write to a hundred
# pages, and neither a zygote nor a shim ever has a thread. PyDLL keeps the interpreter's lock held meanwhile.
_fork = ctypes.PyDLL(None).fork


def zygote(args: list[Any], fds: list[int]) -> int:
    """Fork a shim for each packet on the socket `fds[0]`: its config as JSON, with its listening socket. Until EOF.

    The answer is the pid, or a negative errno.
    """
    control = socket.socket(fileno=fds[0])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for shims: who needs to know of their ends has pidfds
    gc.disable()
    gc.freeze()
    filler = _fill_pools()  # noqa: F841 - held for as long as the zygote lives
    while True:
        config, received, _, _ = socket.recv_fds(control, _REQUEST, 1, socket.MSG_CMSG_CLOEXEC)
        if not config:
            return 0
        pid = _fork()
        if pid == 0:
            control.close()
            # A group of its own, but the zygote's session: a new one is a new scheduling group, which costs each start.
            os.setpgid(0, 0)
            return main([json.loads(config)], received)
        os.close(received[0])
        try:
            control.send(b"%d" % pid)
        except OSError:
            return 0  # the daemon is gone


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


class Zygote:
    """The daemon's end: starts the zygote when it is first needed, and again should it die. For one asyncio loop."""

    def __init__(self, spawner: Spawner, target: str) -> None:
        self._spawner = spawner
        self._target = target
        self._starting = asyncio.Lock()
        self._sock: socket.socket | None = None
        self._waiting: deque[asyncio.Future[int]] = deque()

    async def fork(self, config: dict[str, Any], fd: int) -> int:
        """A new shim's pid. `fd`, its listening socket, stays the caller's. Raises Unavailable when the zygote ended."""
        async with self._starting:
            if self._sock is None:
                await self._start()
        sock = self._sock
        assert sock is not None
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        try:
            socket.send_fds(sock, [json.dumps(config, separators=(",", ":")).encode()], [fd])
        except OSError as error:
            self._ended()
            raise Unavailable(f"the shims' zygote does not take requests: {error.strerror}; try again") from error
        self._waiting.append(answer)
        return await asyncio.shield(answer)

    def close(self) -> None:
        """End the zygote; its shims live on."""
        if self._sock is not None:
            self._ended()

    async def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                child = await self._spawner.fork_async(self._target, [], [theirs.fileno()])
            except BaseException:
                ours.close()
                raise
        child.close()
        ours.setblocking(False)
        self._sock = ours
        asyncio.get_running_loop().add_reader(ours.fileno(), self._answered)

    def _answered(self) -> None:
        assert self._sock is not None
        try:
            data = self._sock.recv(_ANSWER)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._ended()
            return
        answer = self._waiting.popleft()
        if not answer.done():
            answer.set_result(int(data))

    def _ended(self) -> None:
        sock, self._sock = self._sock, None
        if sock is not None:
            with contextlib.suppress(RuntimeError):
                asyncio.get_running_loop().remove_reader(sock.fileno())
            sock.close()
        while self._waiting:
            answer = self._waiting.popleft()
            if not answer.done():
                answer.set_exception(Unavailable("the shims' zygote ended; try again"))
