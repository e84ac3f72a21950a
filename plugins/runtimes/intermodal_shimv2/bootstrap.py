"""Starts a shim's binary, in all the forms that containerd has had, and has it clean up."""

from __future__ import annotations

import json
import os
from typing import Any, Protocol

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from intermodal_api.containerd.runtime.bootstrap_pb2 import BootstrapParams, BootstrapResult
from intermodal_api.containerd.task.v2_pb2 import DeleteResponse
from intermodal_core.contracts.runtimes import TaskRef
from intermodal_core.errors import FailedPrecondition, IntermodalError

from intermodal_shimv2.places import Served

__all__ = ["Bootstrap", "Runs"]

_QUOTED = 2000
_DELETE_WITHIN = 10.0


class Runs(Protocol):
    """What is needed of a spawner."""

    async def run_async(
        self, argv: list[str], input: bytes = b"", timeout: float = 30.0, *, env: Any = None, cwd: str = "/"
    ) -> Any:
        """Execute a command to its end."""


class Bootstrap:
    """A shim's binary. `address` is the daemon's main socket, `events` its ttrpc one, `publisher` a program for those that have none."""

    def __init__(self, spawner: Runs, address: str, events: str, publisher: str, debug: bool, form: str) -> None:
        self._spawner = spawner
        self._address = address
        self._events = events
        self._publisher = publisher
        self._debug = debug
        self._form = form
        self._forms: dict[tuple[str, float], str] = {}

    async def version(self, binary: str) -> str:
        """What the binary says of itself."""
        try:
            done = await self._spawner.run_async([binary, "-v"], timeout=10)
        except IntermodalError as error:
            return f"unknown ({error})"
        lines = [line.strip() for line in done.stdout.decode(errors="replace").splitlines()]
        told = " ".join(line for line in lines if line)[:_QUOTED]
        return told if done.exit == 0 and told else "unknown"

    async def start(self, binary: str, task: TaskRef, bundle: str, options: AnyMessage, within: float) -> Served:
        """Start, or find, the task's shim. Raises FailedPrecondition that quotes it, DeadlineExceeded."""
        key = (binary, os.stat(binary).st_mtime)
        known = self._forms.get(key) or (self._form if self._form != "auto" else "")
        failures: list[str] = []
        for form in (known,) if known else ("options", "params"):
            given = options.SerializeToString() if form == "options" else self._params(task, options)
            argv = [*self._words(binary, task, bundle), "start"]
            try:
                done = await self._spawner.run_async(argv, given, within, env=self._environment(task), cwd=bundle)
            except IntermodalError as error:
                raise type(error)(f"{binary} start: {error}") from error
            if done.exit == 0:
                served = _understood(binary, done.stdout)
                self._forms[key] = form
                return served
            said = (done.stderr or done.stdout).decode(errors="replace").strip()[-_QUOTED:]
            failures.append(" ".join(said.split()) or f"ended with status {done.exit} and said nothing")
        raise FailedPrecondition(f"{binary} start: {'; '.join(dict.fromkeys(failures))}")

    async def delete(self, binary: str, task: TaskRef, bundle: str) -> DeleteResponse | None:
        """Have the binary remove what its shim has left; None where it does not say how the task ended."""
        argv = [*self._words(binary, task, bundle), "delete"]
        try:
            done = await self._spawner.run_async(
                argv, timeout=_DELETE_WITHIN, env=self._environment(task), cwd=bundle if os.path.isdir(bundle) else "/"
            )
            return DeleteResponse.FromString(done.stdout) if done.exit == 0 and done.stdout else None
        except (IntermodalError, DecodeError):
            return None

    def _words(self, binary: str, task: TaskRef, bundle: str) -> list[str]:
        words = [binary, "-namespace", task.namespace, "-id", task.id, "-address", self._address]
        words += ["-publish-binary", self._publisher, "-bundle", bundle]
        return [*words, *(["-debug"] if self._debug else [])]

    def _environment(self, task: TaskRef) -> dict[str, str]:
        return {
            **os.environ,
            "TTRPC_ADDRESS": self._events,
            "GRPC_ADDRESS": self._address,
            "NAMESPACE": task.namespace,
            "MAX_SHIM_VERSION": "3",
            "GOMAXPROCS": "2",
        }

    def _params(self, task: TaskRef, options: AnyMessage) -> bytes:
        params = BootstrapParams(
            instance_id=task.id,
            namespace=task.namespace,
            containerd_version="2.3.0",
            containerd_ttrpc_address=self._events,
            containerd_grpc_address=self._address,
            containerd_binary=self._publisher,
        )
        if options.type_url:
            params.extensions.add().value.CopyFrom(options)
        return params.SerializeToString()


def _understood(binary: str, answer: bytes) -> Served:
    """A bare address, JSON, or a serialized result. Raises FailedPrecondition for anything else."""
    text = answer.decode(errors="replace").strip()
    version, address, protocol = 2, text, "ttrpc"
    if text.startswith("{"):
        try:
            told = json.loads(text)
            version, address, protocol = int(told["version"]), str(told["address"]), str(told.get("protocol", "ttrpc"))
        except (ValueError, KeyError, TypeError) as error:
            raise FailedPrecondition(f"{binary} start answered {text[:200]!r}, which is no answer: {error}") from error
    elif not text.startswith(("unix://", "/")):
        try:
            result = BootstrapResult.FromString(answer)
            version, address, protocol = result.version, result.address, result.protocol or "ttrpc"
        except DecodeError:
            address = ""
    path = address.removeprefix("unix://")
    if not path.startswith("/"):
        raise FailedPrecondition(f"{binary} start answered {text[:200]!r}, which names no unix socket")
    if protocol != "ttrpc" or version not in (2, 3):
        raise FailedPrecondition(
            f"{binary} serves version {version} of the task API over {protocol}; known are 2 and 3 over ttrpc"
        )
    return Served(path, version)
