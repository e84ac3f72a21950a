"""The driver of shims that hold several containers: those of a pod, or of a namespace.

What is shared is a process: its memory is paid once, and its end is felt by all. Containers of one shim that is killed are killed, and
told with 137; one that floods its output takes time of the others' pumps. A shim a container is the default for that reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import time
from typing import Any, Literal

from google.protobuf.empty_pb2 import Empty
from intermodal_api.containerd.task import v3_pb2 as api
from intermodal_core.contracts.runtimes import CreateTask, Exit, TaskRef
from intermodal_core.errors import IntermodalError, Unavailable
from intermodal_ttrpc.client import Client

from intermodal_shim.driver import ShimRuntime
from intermodal_shim.record import Record
from intermodal_shim.remains import clean
from intermodal_shim.runtime import Options

__all__ = ["SharedShimRuntime", "Sharing"]

Sharing = Literal["container", "pod", "namespace"]

_TASK = "containerd.task.v3.Task"
#: Annotations whose value is the sandbox that a container belongs to.
_GROUPS = ("io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id")
_WITHIN = 5.0


class SharedShimRuntime(ShimRuntime):
    """As `ShimRuntime`; `sharing` says which containers have a shim in common."""

    sharing: Sharing = "container"

    def __init__(self, *given: Any, sharing: Sharing = "container", **named: Any) -> None:
        super().__init__(*given, **named)
        self.sharing = sharing
        self._sockets: dict[TaskRef, str] = {}
        self._forking: dict[str, asyncio.Lock] = {}

    async def create(self, task: TaskRef, request: CreateTask) -> int:
        """[R7] In the shim of its group, forked for the first."""
        if task not in self._clients:
            self._sockets[task] = self._group(task, request.bundle)
        return await super().create(task, request)

    async def connect(self, task: TaskRef, bundle: str) -> int:
        """[R8] Find the group's shim."""
        self._sockets[task] = self._group(task, bundle)
        return await super().connect(task, bundle)

    async def cleanup(self, task: TaskRef, bundle: str) -> Exit:
        """[R9] A shim that answers holds others as well, and removes this one; else as ever."""
        path = self._sockets[task] = self._group(task, bundle)
        if self._stopped or path == super()._socket(task):
            return await super().cleanup(task, bundle)
        client = self._clients.pop(task, None)
        if client is not None:
            client.close()
        self._pids.pop(task, None)
        lives = await self._ask_to_remove(task, path)
        record = await asyncio.to_thread(Record.read, bundle, Record(options=self._options_in(task.namespace)))
        pid = await clean(self._spawner, task.id, bundle, record._replace(pid=0) if lives else record)
        if not lives:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        return Exit(pid=pid, status=128 + signal.SIGKILL, exited_at=time.time_ns())

    async def _ask_to_remove(self, task: TaskRef, path: str) -> bool:
        """Whether there is a shim: it is then without this container, or hangs, and is nobody's to kill."""
        try:
            client = await Client.connect(path, timeout=_WITHIN)
        except IntermodalError:
            return False
        kill = api.KillRequest(id=task.id, signal=signal.SIGKILL)
        try:
            with contextlib.suppress(IntermodalError):
                await client.call(_TASK, "Kill", kill, Empty, timeout=_WITHIN)
                await client.call(_TASK, "Wait", api.WaitRequest(id=task.id), api.WaitResponse, timeout=_WITHIN)
            with contextlib.suppress(IntermodalError):
                await client.call(_TASK, "Delete", api.DeleteRequest(id=task.id), api.DeleteResponse, timeout=_WITHIN)
            return not client.closed
        finally:
            client.close()

    async def _create(self, task: TaskRef, request: CreateTask, options: Options) -> int:
        path = self._socket(task)
        if path == super()._socket(task):
            return await super()._create(task, request, options)
        async with self._forking.setdefault(path, asyncio.Lock()):
            leaving = [each for other, each in self._leaving.items() if self._sockets.get(other) == path]
            if leaving:
                await asyncio.wait(leaving)
            try:
                client = await Client.connect(path, timeout=_WITHIN)
            except Unavailable:
                return await super()._create(task, request, options)
        return await self._join(task, request, options, client)

    async def _join(self, task: TaskRef, request: CreateTask, options: Options, client: Client) -> int:
        self._clients[task] = client
        try:
            about = await client.call(
                _TASK, "Connect", api.ConnectRequest(id=task.id), api.ConnectResponse, timeout=_WITHIN
            )
            self._pids[task] = about.shim_pid
            Record.write(request.bundle, about.shim_pid, options)
            return await self._call_create(task, request)
        except Unavailable:
            await self.cleanup(task, request.bundle)
            raise
        except IntermodalError:  # the shim has undone it
            self._dismiss(task)
            raise
        except BaseException:
            await self.cleanup(task, request.bundle)
            raise

    def _dismiss(self, task: TaskRef) -> None:
        path = self._socket(task)
        if any(other != task and self._socket(other) == path for other in (*self._clients, *self._creating)):
            client = self._clients.pop(task, None)
            self._pids.pop(task, None)
            if client is not None:
                client.close()
        else:
            super()._dismiss(task)

    def _socket(self, task: TaskRef) -> str:
        return self._sockets.get(task) or super()._socket(task)

    def _group(self, task: TaskRef, bundle: str) -> str:
        group = ""
        if self.sharing == "namespace":
            group = f"namespace {task.namespace}"
        elif self.sharing == "pod" and (sandbox := _sandbox(bundle)):
            group = f"pod {task.namespace}/{sandbox}"
        if not group:
            return super()._socket(task)
        return str(self._state / "s" / hashlib.sha256(group.encode()).hexdigest()[:20])


def _sandbox(bundle: str) -> str:
    try:
        with open(os.path.join(bundle, "config.json"), encoding="utf-8") as file:
            annotations = json.load(file).get("annotations") or {}
        return next((str(annotations[key]) for key in _GROUPS if annotations.get(key)), "")
    except (OSError, ValueError, AttributeError):
        return ""
