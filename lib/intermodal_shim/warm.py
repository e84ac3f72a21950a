"""Runs the shim's code once before any fork, so that forked shims share what running it writes.

Python writes into memory as it runs: the interpreter adapts code that it has run a few times, fills caches of attributes
and names, makes message classes at their first use. Written before the fork, these pages stay shared; else each shim
has its own copies, several times what it needs for its container.
"""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from intermodal_api.containerd.services.ttrpc_events_pb2 import ForwardRequest
from intermodal_api.containerd.task import v3_pb2 as api
from intermodal_core import syscalls
from intermodal_ttrpc import messages
from intermodal_ttrpc.channel import bind
from intermodal_ttrpc.dispatch import Listener

from intermodal_shim import service
from intermodal_shim.cgroups import Cgroup
from intermodal_shim.container import Container
from intermodal_shim.loop import Loop
from intermodal_shim.main import Shim
from intermodal_shim.process import Process
from intermodal_shim.runtime import Options, arguments

__all__ = ["rehearse"]

#: The interpreter adapts code after eight runs, and learns more at the next ones.
_ROUNDS = 16
_PR_GET_DUMPABLE = 3
_SPEC = b'{"linux":{"namespaces":[{"type":"pid"}]}}'


class _Rehearsal(Loop):
    """Starts nothing: commands write a line and end well at once; the processes that they make end when `end` says so."""

    def __init__(self) -> None:
        self.defects: list[Exception] = []
        super().__init__(self.defects.append)
        self._pids = itertools.count(1 << 24)  # above every pid there can be

    def spawn(
        self, argv: list[str], env: Mapping[bytes, bytes], fds: Mapping[int, int], ended: Callable[[int], Any]
    ) -> int:
        """As a Loop's, without a command."""
        if "--pid-file" in argv:
            with open(argv[argv.index("--pid-file") + 1], "w", encoding="ascii") as file:
                file.write(str(os.getpid()))
            os.write(fds[1], b"a line\n")
            os.write(fds[2], b"a line\n")
        self._commands += 1
        self.call_later(0, lambda: self._command_ended(ended, 0))
        return next(self._pids)

    def end(self) -> None:
        """The processes that are watched end."""
        for pid in list(self._children):
            self._guarded(self._children.pop(pid), 0)


class _Container(Container):
    """Its processes are this one, whose cgroup is read and in which nothing is killed."""

    def _made(self, process: Process) -> None:
        super()._made(process)
        if process is self.init:
            self.cgroup = Cgroup(process.pid)
            self._own_pids = True


class _Shim(Shim):
    container_type = _Container


def rehearse() -> None:
    """Lead containers through their lives in this process, without starting anything; leaves nothing behind.

    Raises RuntimeError where the shim's code fails in it.
    """
    directory = tempfile.mkdtemp(prefix="shim-")
    loop = _Rehearsal()
    try:
        told = Listener(bind(f"{directory}/events"), loop, _EVENTS)
        args = arguments("n", f"{directory}/log", f"{directory}/events", False, Options())
        shim = _Shim(args, bind(f"{directory}/shim"), loop)
        for name in ("stdin", "stdout"):
            os.mkfifo(f"{directory}/{name}")
        with open(f"{directory}/config.json", "wb") as file:
            file.write(_SPEC)
        for number in range(_ROUNDS):
            syscalls.prctl(_PR_GET_DUMPABLE)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(f"{directory}/shim")
                client.setblocking(False)
                _life(loop, client, directory, f"c{number}")
        shim.close()
        told.close()
    finally:
        service.release()
        loop.close()
        shutil.rmtree(directory, ignore_errors=True)
    if loop.defects:
        raise RuntimeError("the shim's rehearsal failed") from loop.defects[0]


def _life(loop: _Rehearsal, client: socket.socket, directory: str, id: str) -> None:
    def call(method: str, request: Message) -> None:
        client.send(messages.encode_request(1, "containerd.task.v3.Task", method, request, None, {}))
        for _ in range(4):
            loop.turn(0)
        client.recv(1 << 16)

    stdin, stdout = f"{directory}/stdin", f"{directory}/stdout"
    log = f"cri://{directory}/cri.log?size=1000&files=2"
    call("Create", api.CreateTaskRequest(id=id, bundle=directory, stdin=stdin, stdout=stdout, stderr=log))
    call("Start", api.StartRequest(id=id))
    call("State", api.StateRequest(id=id))
    call("Exec", api.ExecProcessRequest(id=id, exec_id="e", stdin=stdin, stdout=stdout, stderr=log))
    call("Start", api.StartRequest(id=id, exec_id="e"))
    call("Connect", api.ConnectRequest(id=id))
    call("CloseIO", api.CloseIORequest(id=id, stdin=True))
    call("Pids", api.PidsRequest(id=id))
    client.send(messages.encode_request(1, "containerd.task.v3.Task", "Wait", api.WaitRequest(id=id), None, {}))
    loop.turn(0)
    loop.end()
    for _ in range(8):
        loop.turn(0)
    call("State", api.StateRequest(id="another"))
    call("Delete", api.DeleteRequest(id=id, exec_id="e"))
    call("Delete", api.DeleteRequest(id=id))


def _forward(request: ForwardRequest, call: object) -> Empty:
    return Empty()


_EVENTS = {"containerd.services.events.ttrpc.v1.Events": {"Forward": (ForwardRequest, _forward)}}
