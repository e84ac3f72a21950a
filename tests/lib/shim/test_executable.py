"""Our shim as a program: stock containerd runs containers with it, and all three generations of callers are answered."""

from __future__ import annotations

import asyncio
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from intermodal_api.containerd.runtime.bootstrap_pb2 import BootstrapParams
from intermodal_api.containerd.runtime.runc_options_pb2 import Options
from intermodal_api.containerd.task import v2_pb2, v3_pb2
from intermodal_core.testing.runtime_fixtures import lives
from intermodal_snapshots.mounts import mounts_below
from intermodal_ttrpc.client import Client

from tests.harness.containerd import Containerd
from tests.harness.images import Built
from tests.harness.waiting import until

NAME = "containerd-shim-intermodal-v1"
BINARIES = str(Path(sys.executable).parent)
IMAGE = "docker.io/library/busybox:latest"


class Stock:
    """Debian's containerd, and ctr for it."""

    def __init__(self, daemon: Containerd) -> None:
        self.daemon = daemon

    def ctr(self, *words: str, input: str = "") -> subprocess.CompletedProcess[str]:
        command = ["ctr", "--address", self.daemon.address, *words]
        return subprocess.run(command, input=input, capture_output=True, text=True, timeout=60, check=False)

    def run(self, *words: str, input: str = "") -> subprocess.CompletedProcess[str]:
        given = ["run", "--runtime", "io.containerd.intermodal.v1", "--snapshotter", "native", *words]
        return self.ctr(*given, input=input)


@pytest.fixture(scope="module")
def stock(busybox: Built) -> Iterator[Stock]:
    if shutil.which("containerd") is None:
        pytest.skip("containerd is not installed")
    with Containerd(binaries=BINARIES) as daemon:
        stock = Stock(daemon)
        imported = stock.ctr("images", "import", "--snapshotter", "native", str(busybox.path))
        assert imported.returncode == 0, imported.stderr
        yield stock


def test_stock_containerd_runs_a_container(stock: Stock) -> None:
    done = stock.run("--rm", IMAGE, "one", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.returncode, done.stdout, done.stderr.splitlines()[0]) == (3, "out\n", "err")
    assert "one" not in stock.ctr("containers", "ls").stdout


def test_stock_containerd_execs_pauses_and_kills(stock: Stock) -> None:
    assert stock.run("-d", IMAGE, "two", "sleep", "1000").returncode == 0
    done = stock.ctr("tasks", "exec", "--exec-id", "e", "two", "sh", "-c", "echo hello; exit 5")
    assert (done.returncode, done.stdout) == (5, "hello\n")
    assert stock.ctr("tasks", "pause", "two").returncode == 0
    assert "PAUSED" in stock.ctr("tasks", "ls").stdout
    assert stock.ctr("tasks", "resume", "two").returncode == 0
    metrics = stock.ctr("tasks", "metrics", "two").stdout
    assert "memory.usage_in_bytes" in metrics or "memory.usage" in metrics
    assert stock.ctr("tasks", "kill", "-s", "SIGKILL", "two").returncode == 0
    until(lambda: "STOPPED" in stock.ctr("tasks", "ls").stdout)
    assert "code 137" in stock.ctr("tasks", "rm", "two").stderr
    assert stock.ctr("containers", "rm", "two").returncode == 0


def test_it_outlives_the_daemon(busybox: Built) -> None:
    if shutil.which("containerd") is None:
        pytest.skip("containerd is not installed")
    with Containerd(binaries=BINARIES) as daemon:
        stock = Stock(daemon)
        stock.ctr("images", "import", "--snapshotter", "native", str(busybox.path))
        assert stock.run("-d", IMAGE, "three", "sleep", "1000").returncode == 0
        before = stock.ctr("tasks", "ls").stdout
        daemon.stop()
        daemon.start()
        assert stock.ctr("tasks", "ls").stdout == before
        stock.ctr("tasks", "rm", "-f", "three")
        assert stock.ctr("containers", "rm", "three").returncode == 0


def test_a_command_that_there_is_not(stock: Stock) -> None:
    done = stock.run("--rm", IMAGE, "four", "no-such-command")
    assert done.returncode != 0
    assert "no-such-command" in done.stderr
    assert "four" not in stock.ctr("tasks", "ls").stdout
    stock.ctr("containers", "rm", "four")


def test_a_shim_that_is_killed(stock: Stock) -> None:
    """Stock containerd calls `delete`, and nothing is left."""
    assert stock.run("-d", IMAGE, "five", "sleep", "1000").returncode == 0
    bundle = next(Path(stock.daemon.address).parent.glob("state/io.containerd.runtime.v2.task/*/five"))
    shim, init = json.loads((bundle / "shim.json").read_text())["pid"], int((bundle / "init.pid").read_text())
    os.kill(shim, signal.SIGKILL)
    until(lambda: not lives(init))
    until(lambda: not bundle.exists())
    assert not mounts_below(bundle)
    assert stock.ctr("containers", "rm", "five").returncode == 0


def start(bundle: Path, *words: str, stdin: bytes = b"", **env: str) -> bytes:
    """What `start` answers."""
    command = [f"{BINARIES}/{NAME}", *words, "start"]
    given = {"PATH": os.environ["PATH"], **env}
    done = subprocess.run(command, cwd=bundle, env=given, input=stdin, capture_output=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def life(address: str, bundle: Path, id: str, api: object = v3_pb2) -> int:
    """Create, start, wait, delete, and the shim's end; the exit status."""
    version = "v3" if api is v3_pb2 else "v2"

    async def main() -> int:
        client = await Client.connect(address.removeprefix("unix://"))

        async def call(method: str, response: object, **fields: object) -> object:
            request = getattr(api, f"{method}Request", None) or getattr(api, f"{method}TaskRequest")
            kind = response if response is Empty else getattr(api, str(response))
            service = f"containerd.task.{version}.Task"
            return await client.call(service, method, request(id=id, **fields), kind, timeout=20)

        connected = await call("Connect", "ConnectResponse")
        ended = os.pidfd_open(connected.shim_pid)  # type: ignore[attr-defined]
        await call("Create", "CreateTaskResponse", bundle=str(bundle))
        await call("Start", "StartResponse")
        await call("Wait", "WaitResponse")
        deleted = await call("Delete", "DeleteResponse")
        await call("Shutdown", Empty)
        client.close()
        await asyncio.to_thread(signal_of_end, ended)
        return int(deleted.exit_status)  # type: ignore[attr-defined]

    return asyncio.run(main())


def signal_of_end(pidfd: int) -> None:
    """Wait for a process that is not our child."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    assert poll.poll(10_000), "the shim does not end"
    os.close(pidfd)


@pytest.mark.parametrize("generation", [1, 2, 3])
def test_each_generation_of_callers(
    make_bundle: Callable[..., Path], rootfs: Path, tmp_path: Path, generation: int
) -> None:
    id = f"gen{generation}-{os.getpid()}"
    bundle = make_bundle(id, "sh", "-c", "exit 4", root={"path": str(rootfs), "readonly": True})
    options = Options(root=str(tmp_path / "asked"))
    words = ["-namespace", "imtest", "-id", id, "-address", str(tmp_path / "none.sock")]
    if generation < 3:
        carried = AnyMessage(type_url=Options.DESCRIPTOR.full_name, value=options.SerializeToString())
        env = {"MAX_SHIM_VERSION": "3"} if generation == 2 else {}
        answer = start(bundle, *words, stdin=carried.SerializeToString(), **env)
    else:
        params = BootstrapParams(instance_id=id, namespace="imtest", socket_dir=str(tmp_path))
        extension = params.extensions.add().value
        extension.type_url, extension.value = Options.DESCRIPTOR.full_name, options.SerializeToString()
        answer = start(bundle, *words, stdin=params.SerializeToString())
    if generation == 1:
        address = answer.decode()
    else:
        told = json.loads(answer)
        assert (told["version"], told["protocol"]) == (3, "ttrpc")
        address = told["address"]
    assert address.startswith(f"unix://{tmp_path}/" if generation == 3 else "unix:///run/containerd/s/")
    assert (bundle / "address").read_text() == address
    assert life(address, bundle, id, v2_pb2 if generation == 1 else v3_pb2) == 4
    assert not Path(address.removeprefix("unix://")).exists()
    assert (tmp_path / "asked" / "imtest").is_dir()


def test_containers_of_a_sandbox_share_a_shim(make_bundle: Callable[..., Path], rootfs: Path, tmp_path: Path) -> None:
    root = {"path": str(rootfs), "readonly": True}
    pod, other = f"pod-{os.getpid()}", f"other-{os.getpid()}"
    annotations = {"io.kubernetes.cri.sandbox-id": pod}
    first = make_bundle(pod, "sh", "-c", "exit 1", root=root, annotations=annotations)
    second = make_bundle(other, "sh", "-c", "exit 2", root=root, annotations=annotations)
    words = ["-namespace", "imtest", "-address", str(tmp_path / "none.sock"), "-id"]
    address = start(first, *words, pod).decode()
    assert start(second, *words, other).decode() == address
    assert life_in(address, second, other) == 2
    assert life(address, first, pod) == 1


def life_in(address: str, bundle: Path, id: str) -> int:
    """A life in a shim that goes on."""

    async def main() -> int:
        client = await Client.connect(address.removeprefix("unix://"))
        task = "containerd.task.v3.Task"
        await client.call(
            task, "Create", v3_pb2.CreateTaskRequest(id=id, bundle=str(bundle)), v3_pb2.CreateTaskResponse, timeout=20
        )
        await client.call(task, "Start", v3_pb2.StartRequest(id=id), v3_pb2.StartResponse, timeout=20)
        await client.call(task, "Wait", v3_pb2.WaitRequest(id=id), v3_pb2.WaitResponse, timeout=20)
        deleted = await client.call(task, "Delete", v3_pb2.DeleteRequest(id=id), v3_pb2.DeleteResponse, timeout=20)
        client.close()
        return deleted.exit_status

    return asyncio.run(main())


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    command = [f"{BINARIES}/{NAME}", "start"]
    done = subprocess.run(command, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)
    assert done.returncode == 1
    assert b"name a namespace and an id" in done.stderr
