"""The log worker: a forked process that moves the output of one foreign shim from its FIFOs to where it belongs.

It outlives the daemon, and is started again should it die: the FIFOs and what is in them stay. It serves, over ttrpc, a part of the
task API's messages: `Exec` opens the streams of a process (init's exec id is ""), `CloseIO` ends its input, `Delete` answers
once its output is where it belongs, `Shutdown` ends the worker; and our shim's `Attach` and `Reopen`.
"""

from __future__ import annotations

import errno
import gc
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from intermodal_api import shim_pb2
from intermodal_api.containerd.task import v3_pb2 as api
from intermodal_core.errors import AlreadyExists, IntermodalError, NotFound
from intermodal_shim.attaching import attach
from intermodal_shim.loop import Loop
from intermodal_shim.sinks import FileSink
from intermodal_shim.stdio import Stdio, Streams
from intermodal_shim.streams import Input, Output
from intermodal_ttrpc import messages
from intermodal_ttrpc.channel import Channel, connect
from intermodal_ttrpc.dispatch import Call, Listener

from intermodal_shimv2.places import Places

__all__ = ["STREAMS", "main"]

STREAMS = "dev.intermodal.shimv2.v1.Streams"
SHIM = "dev.intermodal.shim.v1.Shim"


class _FifoInput(Input):
    """Input to a FIFO, at whose end the shim is told: it, too, holds it open."""

    def __init__(self, loop: Loop, target: int, terminal: bool, ended: Callable[[], object]) -> None:
        super().__init__(loop, target, terminal)
        self._ended = ended

    def _end_now(self) -> None:
        if not self.closed:
            super()._end_now()
            if not self._terminal:
                self._ended()


class _FifoStdio(Stdio):
    """Streams whose other ends a shim opens by name."""

    def __init__(self, worker: Worker, exec_id: str, streams: Streams, on_drained: Callable[[], object]) -> None:
        super().__init__(worker.loop, streams, (worker.id, worker.places.namespace), on_drained)
        self._worker = worker
        self._exec_id = exec_id

    def _open(self, bundle: str, name: str, ready: Callable[[IntermodalError | None], object]) -> bool:
        waiting = self._open_sinks(ready)
        streams, places = self._streams, self._worker.places
        if streams.stdin:
            path = places.fifo(self._exec_id, "stdin", make=True)
            fd = os.open(
                path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC
            )  # with no reader yet, a writer alone is refused
            if streams.terminal:
                self._fifo = fd
            self._input = _FifoInput(self._loop, fd, streams.terminal, self._input_ended)
        for stream in ("stdout",) if streams.terminal else ("stdout", "stderr"):
            if getattr(streams, stream):
                path = places.fifo(self._exec_id, stream, make=True)
                self._add_output(stream, os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        return waiting

    def _input_ended(self) -> None:
        self._worker.tell_end_of_input(self._exec_id)

    def remove(self) -> None:
        """Close all, and remove the FIFOs."""
        self.close()
        for stream in ("stdin", "stdout", "stderr"):
            try:
                os.unlink(self._worker.places.fifo(self._exec_id, stream))
            except FileNotFoundError:
                pass


class Worker:
    """Holds the streams of one task's processes by exec id."""

    def __init__(self, places: Places, sock: socket.socket) -> None:
        self.places = places
        self.id = places.id
        self.loop = Loop(self._defect)
        self._stdio: dict[str, _FifoStdio] = {}
        self._drained: dict[str, list[Callable[[], object]]] = {}
        self._read_log()
        services: Any = {
            STREAMS: {
                "Exec": (api.ExecProcessRequest, self._exec),
                "CloseIO": (api.CloseIORequest, self._close_io),
                "Delete": (api.DeleteRequest, self._delete),
                "Shutdown": (api.ShutdownRequest, self._shutdown),
            },
            SHIM: {
                "Attach": (shim_pb2.AttachRequest, self._attach),
                "Reopen": (shim_pb2.ReopenRequest, self._reopen),
            },
        }
        self._listener = Listener(sock, self.loop, services, lambda call, error: self._defect(error))

    def _read_log(self) -> None:
        """The shim's own log; it is also held open for writing, so that its end is not ours."""
        fifo = os.open(self.places.log_fifo(make=True), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        Output(self.loop, fifo, [FileSink(os.open(self.places.log, flags, 0o640))], lambda: None)

    def _exec(self, request: api.ExecProcessRequest, call: Call) -> None:
        if request.exec_id in self._stdio:
            raise AlreadyExists(f"the process {request.exec_id or 'init'} of {self.id} has its streams already")
        streams = Streams(request.stdin, request.stdout, request.stderr, request.terminal)

        def drained() -> None:
            for answer in self._drained.pop(request.exec_id, []):
                answer()

        stdio = self._stdio[request.exec_id] = _FifoStdio(self, request.exec_id, streams, drained)

        def ready(error: IntermodalError | None) -> None:
            if error is None:
                call.reply(Empty())
            else:
                self._stdio.pop(request.exec_id).remove()
                call.fail(error)

        stdio.open(self.places.bundle, request.exec_id or "init", ready)

    def _close_io(self, request: api.CloseIORequest, call: Call) -> Message:
        stdio = self._stdio.get(request.exec_id)
        if stdio is not None:
            stdio.close_stdin()
        return Empty()

    def _delete(self, request: api.DeleteRequest, call: Call) -> None:
        stdio = self._stdio.get(request.exec_id)
        if stdio is None:
            call.reply(Empty())
            return

        def answer() -> None:
            if self._stdio.pop(request.exec_id, None) is not None:
                stdio.remove()
            if call.connected:
                call.reply(Empty())

        if stdio.drained:
            answer()
        else:
            self._drained.setdefault(request.exec_id, []).append(answer)
            stdio.expire()

    def _shutdown(self, request: api.ShutdownRequest, call: Call) -> Message:
        for stdio in self._stdio.values():
            stdio.remove()
        self.loop.call_later(0.05, self.loop.stop)  # the answer goes first
        return Empty()

    def _attach(self, request: shim_pb2.AttachRequest, call: Call) -> Message:
        stdio = self._stdio.get(request.exec_id)
        if stdio is None:
            raise NotFound(f"the process {request.exec_id or 'init'} of {self.id} has no streams here")
        return attach(stdio, request, call)

    def _reopen(self, request: shim_pb2.ReopenRequest, call: Call) -> Message:
        for stdio in self._stdio.values():
            stdio.reopen_logs()
        return Empty()

    def tell_end_of_input(self, exec_id: str) -> None:
        """CloseIO, to the shim; the daemon may be away."""
        served = self.places.served()
        if served is None:
            return
        request = api.CloseIORequest(id=self.id, exec_id=exec_id, stdin=True)  # the same in both versions
        service = f"containerd.task.v{served.version}.Task"
        try:
            channel = Channel(
                connect(served.path), self.loop, lambda channel, frame: channel.close(), lambda channel: None
            )
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ECONNREFUSED):
                self._defect(error)
            return
        channel.send(messages.encode_request(1, service, "CloseIO", request, None, {}))

    def _defect(self, error: Exception) -> None:
        line = f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} worker: {type(error).__name__}: {error}\n"
        try:
            with open(self.places.log, "a", encoding="utf-8") as file:
                file.write(line)
        except OSError:
            pass  # a full disk must not end the container


def main(args: list[Any], fds: list[int]) -> int:
    """Serve on the listening socket `fds[0]` for the task of `args`: bundle, namespace, id. Until Shutdown."""
    gc.freeze()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    worker = Worker(Places(*args), socket.socket(fileno=fds[0]))
    worker.loop.take_signals()
    worker.loop.run()
    return 0
