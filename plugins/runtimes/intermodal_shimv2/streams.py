"""The daemon's end of a log worker."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os

from google.protobuf.empty_pb2 import Empty
from intermodal_api import shim_pb2
from intermodal_api.containerd.task import v3_pb2 as api
from intermodal_core.contracts.runtimes import Stdio
from intermodal_core.errors import IntermodalError, Unavailable
from intermodal_core.spawner import Spawner
from intermodal_ttrpc.channel import bind
from intermodal_ttrpc.client import Client

from intermodal_shimv2.places import Places

__all__ = ["StreamsOf", "theirs"]

log = logging.getLogger("intermodal.shimv2")

_WORKER = "intermodal_shimv2.worker:main"
_STREAMS = "dev.intermodal.shimv2.v1.Streams"
_SHIM = "dev.intermodal.shim.v1.Shim"
_WITHIN = 15.0


def theirs(places: Places, exec_id: str, stdio: Stdio) -> Stdio:
    """What a shim is told: FIFOs of the client's as they are, and ours for what the worker reads and feeds.

    Shims expect all streams or none.
    """

    def of(stream: str, uri: str) -> str:
        return places.fifo(exec_id, stream) if "://" in uri else uri

    rest = os.devnull if stdio.stdin or stdio.stdout or stdio.stderr else ""
    stderr = "" if stdio.terminal else of("stderr", stdio.stderr) or rest
    return Stdio(of("stdin", stdio.stdin), of("stdout", stdio.stdout) or rest, stderr, stdio.terminal)


class StreamsOf:
    """The streams of one task. A worker that dies is started again, with the streams that are kept in the bundle."""

    def __init__(self, spawner: Spawner, places: Places) -> None:
        self._spawner = spawner
        self._places = places
        self._socket = os.path.join(places.bundle, "streams.sock")
        self._client: Client | None = None
        self._reviving: asyncio.Task[None] | None = None
        self._over = False

    async def start(self) -> None:
        """A new worker."""
        with bind(self._socket) as sock:
            args = [self._places.bundle, self._places.namespace, self._places.id]
            (await self._spawner.fork_async(_WORKER, args, [sock.fileno()])).close()
        self._client = await Client.connect(self._socket, on_close=self._lost)

    async def take_up(self) -> None:
        """The worker of the last daemon, or a new one in its place."""
        try:
            self._client = await Client.connect(self._socket, on_close=self._lost)
        except Unavailable:
            await self._revive()

    async def open(self, exec_id: str, stdio: Stdio) -> None:
        """Make a process's FIFOs and read them."""
        self._places.remember_streams(exec_id, (stdio.stdin, stdio.stdout, stdio.stderr, stdio.terminal))
        await self._open(exec_id, stdio)

    def of(self, exec_id: str) -> Stdio | None:
        """As they were given."""
        found = self._places.streams().get(exec_id)
        return Stdio(*found) if found else None

    async def attach(self, fds: tuple[int, int, int], exec_id: str, hold: bool) -> None:
        """Add descriptors. Raises FailedPrecondition for a stream that goes elsewhere."""
        stdin, stdout, stderr = (fd >= 0 for fd in fds)
        request = shim_pb2.AttachRequest(exec_id=exec_id, stdin=stdin, stdout=stdout, stderr=stderr, hold=hold)
        client = await self._ready()
        await client.call(_SHIM, "Attach", request, Empty, timeout=_WITHIN, fds=[fd for fd in fds if fd >= 0])

    async def close_stdin(self, exec_id: str) -> None:
        """What was taken is still delivered."""
        request = api.CloseIORequest(exec_id=exec_id, stdin=True)
        await (await self._ready()).call(_STREAMS, "CloseIO", request, Empty, timeout=_WITHIN)

    async def drain(self, exec_id: str) -> None:
        """Until all output is where it belongs, or its sinks' time is over; then the FIFOs go."""
        self._places.remember_streams(exec_id, None)
        with contextlib.suppress(IntermodalError):  # without a worker there is nothing to wait for
            client = await self._ready()
            await client.call(_STREAMS, "Delete", api.DeleteRequest(exec_id=exec_id), Empty)

    async def end(self) -> None:
        """End the worker."""
        self._over = True
        if self._reviving is not None:
            await asyncio.wait([self._reviving])
        with contextlib.suppress(IntermodalError):
            if self._client is None or self._client.closed:
                self._client = await Client.connect(self._socket)
            await self._client.call(_STREAMS, "Shutdown", api.ShutdownRequest(), Empty, timeout=_WITHIN)
        self.let_go()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._socket)

    def let_go(self) -> None:
        """The worker lives on."""
        self._over = True
        if self._client is not None:
            self._client.close()

    async def _open(self, exec_id: str, stdio: Stdio) -> None:
        ours = [uri if "://" in uri else "" for uri in (stdio.stdin, stdio.stdout, stdio.stderr)]
        request = api.ExecProcessRequest(
            exec_id=exec_id, terminal=stdio.terminal, stdin=ours[0], stdout=ours[1], stderr=ours[2]
        )
        assert self._client is not None
        await self._client.call(_STREAMS, "Exec", request, Empty, timeout=_WITHIN)

    async def _ready(self) -> Client:
        if self._reviving is not None:
            await asyncio.wait([self._reviving])
        if self._client is None or self._client.closed:
            raise Unavailable(f"the log worker of {self._places.namespace}/{self._places.id} is gone")
        return self._client

    def _lost(self) -> None:
        if not self._over and self._reviving is None:
            self._reviving = asyncio.ensure_future(self._revive())
            self._reviving.add_done_callback(self._revived)

    def _revived(self, done: asyncio.Task[None]) -> None:
        self._reviving = None
        if not done.cancelled() and (error := done.exception()) is not None:
            log.error("the output of %s/%s is read no more: %s", self._places.namespace, self._places.id, error)

    async def _revive(self) -> None:
        await self.start()
        for exec_id, (stdin, stdout, stderr, terminal) in self._places.streams().items():
            await self._open(exec_id, Stdio(stdin, stdout, stderr, terminal))
