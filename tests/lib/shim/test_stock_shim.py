"""ttrpc against a real peer: our client calls containerd's own shim, which publishes its events to our server."""

import asyncio
import os
import select
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from intermodal_api.containerd.services.ttrpc_events_pb2 import ForwardRequest
from intermodal_api.containerd.task import v2_pb2 as task
from intermodal_api.containerd.types.task_pb2 import RUNNING, STOPPED
from intermodal_core.errors import NotFound, Unavailable
from intermodal_ttrpc.client import Client, M
from intermodal_ttrpc.server import Call, Server, bind

SHIM = shutil.which("containerd-shim-runc-v2")

pytestmark = pytest.mark.skipif(
    SHIM is None, reason="containerd-shim-runc-v2 is not installed (apt install containerd)"
)


def test_a_life_of_a_task(make_bundle: Callable[..., Path], rootfs: Path, tmp_path: Path) -> None:
    bundle = make_bundle("stock", "sleep", "100", root={"path": str(rootfs), "readonly": True})
    os.mkfifo(bundle / "log")
    log = os.open(bundle / "log", os.O_RDWR)  # it ends where it cannot open its log
    assert SHIM is not None
    address = subprocess.run(
        [SHIM, "-namespace", "imtest", "-id", f"stock{os.getpid()}", "-address", tmp_path / "none.sock", "start"],
        cwd=bundle,
        env={"PATH": os.environ["PATH"], "TTRPC_ADDRESS": str(tmp_path / "events.ttrpc")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=20,
        text=True,
    ).stdout

    topics: list[str] = []

    async def forward(request: ForwardRequest, call: Call) -> Empty:
        assert call.metadata["containerd-namespace-ttrpc"] == "imtest"
        topics.append(request.envelope.topic)
        return Empty()

    async def life() -> None:
        services = {"containerd.services.events.ttrpc.v1.Events": {"Forward": (ForwardRequest, forward)}}
        events = Server(bind(str(tmp_path / "events.ttrpc")), services)
        client = await Client.connect(address.removeprefix("unix://"))

        async def call(method: str, request: Message, response: type[M]) -> M:
            return await client.call("containerd.task.v2.Task", method, request, response, timeout=20)

        name = f"stock{os.getpid()}"
        try:
            with pytest.raises(NotFound):
                await call("State", task.StateRequest(id=name), task.StateResponse)
            connected = await call("Connect", task.ConnectRequest(id=name), task.ConnectResponse)
            created = await call("Create", task.CreateTaskRequest(id=name, bundle=str(bundle)), task.CreateTaskResponse)
            started = await call("Start", task.StartRequest(id=name), task.StartResponse)
            assert created.pid == started.pid > 1
            state = await call("State", task.StateRequest(id=name), task.StateResponse)
            assert (state.status, state.pid, state.bundle) == (RUNNING, created.pid, str(bundle))
            waiting = asyncio.ensure_future(call("Wait", task.WaitRequest(id=name), task.WaitResponse))
            await call("Kill", task.KillRequest(id=name, signal=9), Empty)
            assert (await waiting).exit_status == 137
            assert (await call("State", task.StateRequest(id=name), task.StateResponse)).status == STOPPED
            deleted = await call("Delete", task.DeleteRequest(id=name), task.DeleteResponse)
            assert (deleted.pid, deleted.exit_status) == (created.pid, 137)
        finally:
            ended = os.pidfd_open(connected.shim_pid)
            try:
                await call("Shutdown", task.ShutdownRequest(id=name, now=True), Empty)
            except Unavailable:
                pass  # it may go before it has answered
            client.close()
            await asyncio.to_thread(select.select, [ended], [], [], 20)
            os.close(ended)
            await events.stop()
        assert topics == [f"/tasks/{name}" for name in ("create", "start", "exit", "delete")]

    try:
        asyncio.run(life())
    finally:
        os.close(log)
