"""Our shim as a program, `containerd-shim-intermodal-v1`, which any daemon that starts shims v2 can start.

    BINARY -namespace NS -id ID -address DAEMON -publish-binary BIN [-debug] start|delete

It is called in the bundle. `start` answers with the address of a shim that serves the task API, versions 2 and 3; `delete` removes
what a shim that died has left, and writes a `DeleteResponse`. Standard input is empty, an Any with the runtime's
options, or a `BootstrapParams`; the answer to `start` is an address, or JSON where the caller knows that: the three
generations of containerd's protocol. Containers whose bundles name the same sandbox share a shim.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from intermodal_api.containerd.runtime.bootstrap_pb2 import BootstrapParams
from intermodal_core import syscalls
from intermodal_core.errors import IntermodalError
from intermodal_ttrpc.channel import bind, connect

from intermodal_shim.container import Container
from intermodal_shim.main import PR_SET_CHILD_SUBREAPER, Shim
from intermodal_shim.record import Record
from intermodal_shim.runtime import Options, arguments
from intermodal_shim.stdio import Streams

__all__ = ["main"]

_VERSION = 3
#: Where the sockets go, and runc's state: as containerd's own shims have it, so that its tools find both.
_SOCKETS = "/run/containerd/s"
_ROOT = "/run/containerd/runc"
#: Annotations whose value is the sandbox that a container belongs to.
_GROUPS = ("io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id")


class _Request(NamedTuple):
    """What the caller said, wherever it said it. `knows`: it reads JSON."""

    namespace: str
    id: str
    events: str
    sockets: str
    knows: bool
    options: Options


class _Program(Shim):
    """A shim that leaves beside each container how it is to be removed."""

    def add(self, id: str, bundle: str, streams: Streams, options: Options) -> Container:
        """As a shim's."""
        container = super().add(id, bundle, streams, options)
        Record.write(bundle, self.pid, options)
        return container


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 1 with a sentence on standard error where it fails."""
    given = _parser().parse_args(argv)
    if given.version:
        print(f"containerd-shim-intermodal-v1: task API 2 and {_VERSION}")
        return 0
    try:
        if given.bundle:
            os.chdir(given.bundle)
        request = _read(given, sys.stdin.buffer.read() if not sys.stdin.isatty() else b"")
        if not request.namespace or not request.id:
            raise ValueError("name a namespace and an id: -namespace NS -id ID")
        if given.action == "start":
            return _start(request)
        return _delete(request)
    except (IntermodalError, OSError, ValueError) as error:
        print(f"containerd-shim-intermodal-v1: {given.action}: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="containerd-shim-intermodal-v1", allow_abbrev=False)
    for name in ("namespace", "id", "address", "publish-binary", "bundle", "socket"):
        parser.add_argument(f"-{name}", f"--{name}", default="")
    parser.add_argument("-debug", "--debug", action="store_true")
    parser.add_argument("-v", "--version", action="store_true", dest="version")
    parser.add_argument("action", nargs="?", choices=("start", "delete"), default="start")
    return parser


def _read(given: argparse.Namespace, stdin: bytes) -> _Request:
    """Understands all three generations of callers."""
    params = _params(given, stdin)
    if params is not None:
        found = [extension.value for extension in params.extensions]
        events = params.containerd_ttrpc_address
    else:
        found = [AnyMessage.FromString(stdin)] if stdin else []
        events = os.environ.get("TTRPC_ADDRESS", "") or (f"{given.address}.ttrpc" if given.address else "")
    namespace = given.namespace or (params.namespace if params else "")
    options = Options(root=os.path.join(_ROOT, namespace))
    for each in found:
        options = options.merged(each.type_url, each.value, namespace)
    return _Request(
        namespace,
        given.id or (params.instance_id if params else ""),
        events,
        (params.socket_dir if params else "") or _SOCKETS,
        params is not None or int(os.environ.get("MAX_SHIM_VERSION") or 2) >= _VERSION,
        options,
    )


def _params(given: argparse.Namespace, stdin: bytes) -> BootstrapParams | None:
    """The newest form, told from an Any by what it must say of the caller's own words."""
    try:
        params = BootstrapParams.FromString(stdin)
    except DecodeError:
        return None
    named = params.instance_id, params.namespace
    asked = given.id or params.instance_id, given.namespace or params.namespace
    return params if params.instance_id and params.namespace and named == asked else None


def _start(request: _Request) -> int:
    group = _group() or request.id
    name = hashlib.sha256(f"{request.events}/{request.namespace}/{group}".encode()).hexdigest()
    path = os.path.join(request.sockets, name)
    os.makedirs(request.sockets, mode=0o711, exist_ok=True)
    if not _answers(path):
        sock = bind(path)
        if os.fork() == 0:  # noqa: TID251 - a command with one thread
            _serve(request, sock, path)
    with open("address", "w", encoding="utf-8") as file:
        file.write(f"unix://{path}")
    address = f"unix://{path}"
    told = {"version": _VERSION, "address": address, "protocol": "ttrpc"}
    sys.stdout.write(json.dumps(told) if request.knows else address)
    return 0


def _answers(path: str) -> bool:
    try:
        connect(path).close()
    except OSError:
        return False
    return True


def _serve(request: _Request, sock: socket.socket, path: str) -> None:
    """The shim, in a session of its own."""
    status = 1
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.close(null)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        syscalls.prctl(PR_SET_CHILD_SUBREAPER, 1)
        log = os.path.join(os.getcwd(), "log")
        words = arguments(request.namespace, log, request.events, True, request.options)
        shim = _Program(words, sock)
        shim.loop.take_signals()
        shim.run()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        status = 0
    finally:
        os._exit(status)


def _group() -> str:
    """The sandbox that the bundle's container belongs to; "" for none."""
    try:
        with open("config.json", encoding="utf-8") as file:
            annotations: Any = json.load(file).get("annotations") or {}
        return next((str(annotations[key]) for key in _GROUPS if annotations.get(key)), "")
    except (OSError, ValueError, AttributeError):
        return ""


def _delete(request: _Request) -> int:
    import asyncio

    from intermodal_api.containerd.task.v2_pb2 import DeleteResponse

    from intermodal_shim.remains import clean

    bundle = os.getcwd()
    record = Record.read(bundle, Record(options=request.options))
    if (_group() or request.id) != request.id:
        record = record._replace(pid=0)  # others are in that shim
    pid = asyncio.run(clean(_Commands(), request.id, bundle, record))
    answer = DeleteResponse(pid=pid, exit_status=128 + signal.SIGKILL)
    answer.exited_at.FromNanoseconds(time.time_ns())
    sys.stdout.buffer.write(answer.SerializeToString())
    return 0


class _Commands:
    """Executes commands where there is no spawner."""

    async def run_async(self, argv: list[str], input: bytes = b"", timeout: float = 30.0) -> None:
        """To its end, or SIGKILL after `timeout` seconds."""
        import asyncio

        null = asyncio.subprocess.DEVNULL
        try:
            process = await asyncio.create_subprocess_exec(*argv, stdin=null, stdout=null, stderr=null)
        except OSError:
            return  # what it would have done is done without it
        try:
            await asyncio.wait_for(process.wait(), timeout)
        except TimeoutError:
            process.kill()
            await process.wait()


if __name__ == "__main__":
    sys.exit(main())
