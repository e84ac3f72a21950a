"""A shim with a fault: it runs `sleep` for a container, and goes wrong where it is told to.

A fault is a word: `reject`, `reject-options`, `reject-params`, `hang`, `no-answer`, `no-json`, `no-socket`, `old-version`, `grpc`, `flood`
(all of `start`); `no-pid`, `pid-one`, `wrong-version`; or `die-METHOD`, `hang-METHOD`, `fail-METHOD`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from intermodal_api.containerd.runtime.bootstrap_pb2 import BootstrapParams
from intermodal_api.containerd.task import v2_pb2, v3_pb2
from intermodal_core.errors import FailedPrecondition, NotFound
from intermodal_ttrpc.server import Server, bind

__all__ = ["main", "write"]


def write(directory: Path, fault: str) -> Path:
    """The file of a shim with that fault."""
    path = directory / f"containerd-shim-fake{fault}-v1"
    root = Path(__file__).parents[2]
    lines = [f"#!{sys.executable}", "import sys", f"sys.path.insert(0, {str(root)!r})"]
    lines += ["from tests.harness.fakeshim import main", f"main({fault!r})"]
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o755)
    return path


def main(fault: str) -> None:
    """Do what the command line says, as far as the fault lets it."""
    words = sys.argv[1:]
    if "-v" in words:
        print("fake 1")
    elif words[-1] == "delete":
        _delete()
    elif words[-1] == "start":
        _start(fault, sys.stdin.buffer.read())


def _delete() -> None:
    """In the bundle."""
    for name in ("served.pid", "sleep.pid"):
        try:
            os.kill(int(Path(name).read_text()), signal.SIGKILL)
        except (OSError, ValueError):
            pass
    sys.stdout.buffer.write(v2_pb2.DeleteResponse(pid=7, exit_status=137).SerializeToString())


def _start(fault: str, stdin: bytes) -> None:
    if fault == "reject":
        sys.exit("I know no such words: -bundle")
    if fault == "reject-options" and not _is_params(stdin):
        sys.exit("standard input holds no parameters")
    if fault == "reject-params" and (_is_params(stdin) or (stdin and not AnyMessage.FromString(stdin).type_url)):
        sys.exit("standard input holds no options")
    if fault == "hang":
        time.sleep(1000)
    if fault == "flood":
        while True:
            os.write(1, b"x" * 65536)
    said = {
        "no-answer": "",
        "no-json": '{"version": 3',
        "no-socket": "unix:///no/such/socket",
        "old-version": '{"version": 1, "address": "unix:///x", "protocol": "ttrpc"}',
        "grpc": '{"version": 3, "address": "unix:///x", "protocol": "grpc"}',
    }
    if fault in said:
        print(said[fault])
        return
    path = f"{tempfile.mkdtemp(prefix='fakeshim-')}/s"
    sock = bind(path)
    if os.fork() == 0:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        Path("served.pid").write_text(str(os.getpid()))
        asyncio.run(_serve(fault, sock))
        os._exit(0)
    print(json.dumps({"version": 3, "address": f"unix://{path}", "protocol": "ttrpc"}))


def _is_params(stdin: bytes) -> bool:
    try:
        return bool(BootstrapParams.FromString(stdin).namespace)
    except DecodeError:
        return False


async def _serve(fault: str, sock: socket.socket) -> None:
    only = "v2" if fault == "wrong-version" else "v3"
    api: Any = v2_pb2 if only == "v2" else v3_pb2
    task = _Task(fault, api)
    methods = {}
    for method in api.DESCRIPTOR.services_by_name["Task"].methods:
        request = getattr(api, method.input_type.name)
        methods[method.name] = (request, task.handler(method.name, getattr(api, method.output_type.name, Empty)))
    server = Server(sock, {f"containerd.task.{only}.Task": methods})
    await task.over.wait()
    await asyncio.sleep(0.1)
    await server.stop()


def _sleep() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL, start_new_session=True)


class _Task:
    """One container: a `sleep`."""

    def __init__(self, fault: str, api: Any) -> None:
        self.fault = fault
        self.api = api
        self.over = asyncio.Event()
        self.process: subprocess.Popen[bytes] | None = None
        self.started = False
        self.stopped_at = 0

    def handler(self, method: str, response: Any) -> Any:
        async def handle(request: Any, call: Any) -> Any:
            if self.fault == f"die-{method}":
                os._exit(1)
            if self.fault == f"hang-{method}":
                await asyncio.sleep(1000)
            if self.fault == f"fail-{method}":
                raise FailedPrecondition(f"the fake fails to {method}")
            return await getattr(self, f"do_{method.lower()}", self.do_nothing)(request, response())

        return handle

    async def do_nothing(self, request: Any, answer: Any) -> Any:
        return answer

    async def do_connect(self, request: Any, answer: Any) -> Any:
        answer.shim_pid = 1 if self.fault == "pid-one" else os.getpid()
        return answer

    async def do_create(self, request: Any, answer: Any) -> Any:
        self.process = _sleep()
        Path("sleep.pid").write_text(str(self.process.pid))
        answer.pid = 0 if self.fault == "no-pid" else self.process.pid
        return answer

    async def do_start(self, request: Any, answer: Any) -> Any:
        self.started = True
        answer.pid = self._running().pid
        return answer

    async def do_kill(self, request: Any, answer: Any) -> Any:
        self._running().kill()
        return answer

    async def do_wait(self, request: Any, answer: Any) -> Any:
        answer.exit_status = 128 - await asyncio.to_thread(self._running().wait)
        answer.exited_at.FromNanoseconds(time.time_ns())
        return answer

    async def do_state(self, request: Any, answer: Any) -> Any:
        answer.pid = self._running().pid
        ended = self._running().poll() is not None
        answer.status = 3 if ended else 2 if self.started else 1
        return answer

    async def do_delete(self, request: Any, answer: Any) -> Any:
        answer.pid, answer.exit_status = self._running().pid, 137
        return answer

    async def do_shutdown(self, request: Any, answer: Any) -> Any:
        self.over.set()
        return answer

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            raise NotFound("there is no container")
        return self.process
