"""The daemon's end of the zygote: a process that does nothing but fork shims, so that these share most of their memory.

Whatever a parent writes between two forks, each child keeps its own old copy of: a spawner that decodes requests and
keeps books costs every shim a megabyte. The zygote (`shim.zygote`) only receives and forks. The spawner forks it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import Sequence

from intermodal_core.errors import Unavailable, from_os_error
from intermodal_core.spawner import Spawner

__all__ = ["Zygote"]

_ANSWER = 32


class Zygote:
    """The daemon's end: starts the zygote when it is first needed, and again should it die. For one asyncio loop."""

    def __init__(self, spawner: Spawner, target: str) -> None:
        self._spawner = spawner
        self._target = target
        self._starting = asyncio.Lock()
        self._sock: socket.socket | None = None
        self._waiting: deque[asyncio.Future[int]] = deque()

    async def fork(self, args: Sequence[str], fd: int) -> int:
        """A new shim's pid; it runs `main(args)`. `fd`, its listening socket, stays the caller's. Raises Unavailable when the zygote ended,
        ResourceExhausted when there can be no more processes.
        """
        async with self._starting:
            if self._sock is None:
                await self._start()
        sock = self._sock
        assert sock is not None
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        try:
            socket.send_fds(sock, [os.fsencode("\0".join(args))], [fd])
        except OSError as error:
            self._ended()
            raise Unavailable(f"the shims' zygote does not take requests: {error.strerror}; try again") from error
        self._waiting.append(answer)
        pid = await asyncio.shield(answer)
        if pid < 0:
            raise from_os_error(OSError(-pid, os.strerror(-pid)), "forking a shim")
        return pid

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
