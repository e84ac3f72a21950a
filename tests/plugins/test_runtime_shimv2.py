"""The plugin `shimv2`: how it finds a shim, what it tells it, and shims that reject, hang, lie, flood and die."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from intermodal_api.containerd.runtime.bootstrap_pb2 import BootstrapParams
from intermodal_api.containerd.runtime.runc_options_pb2 import Options
from intermodal_core.contracts.runtimes import CreateTask, Runtime, Stdio, TaskRef
from intermodal_core.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    IntermodalError,
    InvalidArgument,
    NotFound,
    PluginSkipped,
    ResourceExhausted,
    Unavailable,
)
from intermodal_core.spawner import Spawner
from intermodal_core.testing.contexts import context_of
from intermodal_core.testing.runtime_fixtures import lives
from intermodal_shimv2.plugin import Config, plugin

from tests.harness import fakeshim
from tests.harness.waiting import until

TASK = TaskRef("ns", "c")


@pytest.fixture(scope="module")
def spawner() -> Iterator[Spawner]:
    spawner = Spawner()
    for module in plugin.forked:
        spawner.preload(module, deadline=30)
    yield spawner
    spawner.close()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "bundle"
    path.mkdir()
    (path / "config.json").write_text("{}")
    return path


def make(tmp_path: Path, spawner: Any, **config: Any) -> Any:
    return plugin.factory(context_of("runtimes", "x", msgspec.convert(config, Config), tmp_path, spawner=spawner))


@pytest.fixture
def with_fault(tmp_path: Path, spawner: Spawner, bundle: Path) -> Callable[..., None]:
    """Run `body(runtime)` with a shim of that fault; afterwards nothing of it lives."""

    def run(fault: str, body: Callable[[Any], Awaitable[None]], **config: Any) -> None:
        binary = fakeshim.write(tmp_path, fault)

        async def main() -> None:
            runtime = make(tmp_path, spawner, binary=str(binary), **{"start_within": 2.0, **config})
            try:
                async with asyncio.timeout(60):
                    await body(runtime)
            finally:
                await runtime.stop()

        asyncio.run(main())
        pids = [int(path.read_text()) for name in ("served.pid", "sleep.pid") if (path := bundle / name).exists()]
        until(lambda: not any(map(lives, pids)))
        until(lambda: not [pid for pid in _speaking_of(bundle) if lives(pid)])

    return run


def _speaking_of(bundle: Path) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and os.fsencode(bundle) in Path(f"/proc/{entry}/cmdline").read_bytes():
                found.append(int(entry))
        except OSError:
            pass
    return found


def test_it_is_a_runtime_that_runs_every_shim(tmp_path: Path, spawner: Spawner, bundle: Path) -> None:
    runtime = make(tmp_path, spawner, binary=str(fakeshim.write(tmp_path, "")))
    assert isinstance(runtime, Runtime)
    assert "any-shim" in plugin.capabilities
    assert asyncio.run(runtime.info()).version == "fake 1"


@pytest.mark.parametrize(
    ("name", "sought"),
    [
        ("io.containerd.kata.v2", "/one/containerd-shim-kata-v2, /two/containerd-shim-kata-v2"),
        ("containerd-shim-x-v1", "/one/containerd-shim-x-v1, /two/containerd-shim-x-v1"),
        ("/no/such/shim", "/no/such/shim"),
    ],
)
def test_a_binary_that_there_is_not(
    tmp_path: Path, spawner: Spawner, monkeypatch: pytest.MonkeyPatch, name: str, sought: str
) -> None:
    monkeypatch.setenv("PATH", "/one:/two")
    with pytest.raises(PluginSkipped, match=sought):
        make(tmp_path, spawner, binary=name)


def test_a_relative_path_is_refused_in_words(tmp_path: Path, spawner: Spawner) -> None:
    with pytest.raises(InvalidArgument, match="bin/shim is a relative path"):
        make(tmp_path, spawner, binary="bin/shim")


def test_a_whole_life(with_fault: Callable[..., None], bundle: Path, tmp_path: Path) -> None:
    async def body(runtime: Any) -> None:
        pid = await runtime.create(TASK, CreateTask(str(bundle), stdio=Stdio(stdout=f"file://{tmp_path}/out")))
        assert lives(pid)
        with pytest.raises(AlreadyExists):
            await runtime.create(TASK, CreateTask(str(bundle)))
        assert await runtime.start(TASK) == pid
        await runtime.kill(TASK, signal.SIGKILL)
        assert (await runtime.wait(TASK)).status == 137
        assert (await runtime.delete(TASK)).status == 137

    with_fault("", body)


@pytest.mark.parametrize(
    ("fault", "error", "says"),
    [
        ("reject", FailedPrecondition, "no such words: -bundle"),
        ("hang", DeadlineExceeded, "2.0 s"),
        ("flood", (ResourceExhausted, DeadlineExceeded), "fakeflood"),
        ("no-answer", FailedPrecondition, "names no unix socket"),
        ("no-json", FailedPrecondition, "is no answer"),
        ("no-socket", FailedPrecondition, "/no/such/socket, and does not"),
        ("old-version", FailedPrecondition, "version 1"),
        ("grpc", FailedPrecondition, "over grpc"),
        ("no-pid", FailedPrecondition, "init is process 0"),
        ("die-Connect", FailedPrecondition, "does not answer"),
        ("hang-Connect", FailedPrecondition, "within 2 s"),
        ("die-Create", Unavailable, "went away"),
        ("fail-Create", FailedPrecondition, "the fake fails to Create"),
    ],
)
def test_a_create_that_fails(
    with_fault: Callable[..., None], bundle: Path, fault: str, error: type[IntermodalError], says: str
) -> None:
    async def body(runtime: Any) -> None:
        for _ in range(2):
            with pytest.raises(error, match=says):
                await runtime.create(TASK, CreateTask(str(bundle)))
            with pytest.raises(NotFound):
                await runtime.state(TASK)

    with_fault(fault, body)


def test_a_create_that_hangs_is_given_up(with_fault: Callable[..., None], bundle: Path) -> None:
    async def body(runtime: Any) -> None:
        with pytest.raises(DeadlineExceeded):
            await runtime.create(TASK, CreateTask(str(bundle)))

    with_fault("hang-Create", body, call_within=1.0)


@pytest.mark.parametrize("method", ["Start", "Wait", "Kill", "State", "Delete"])
def test_one_that_dies_at(with_fault: Callable[..., None], bundle: Path, method: str) -> None:
    """Whatever it dies at is Unavailable, and `cleanup` removes all of it."""

    async def live_on(runtime: Any) -> None:
        await runtime.start(TASK)
        await runtime.state(TASK)
        await runtime.kill(TASK, signal.SIGKILL)
        await runtime.wait(TASK)
        await runtime.delete(TASK)

    async def body(runtime: Any) -> None:
        await runtime.create(TASK, CreateTask(str(bundle)))
        with pytest.raises(Unavailable):
            await live_on(runtime)
        assert (await runtime.cleanup(TASK, str(bundle))).status == 137
        with pytest.raises(NotFound):
            await runtime.state(TASK)

    with_fault(f"die-{method}", body)


def test_one_that_hangs_at_delete_does_not_stop_the_cleanup(with_fault: Callable[..., None], bundle: Path) -> None:
    async def body(runtime: Any) -> None:
        await runtime.create(TASK, CreateTask(str(bundle)))
        await runtime.start(TASK)
        await runtime.kill(TASK, signal.SIGKILL)
        await runtime.wait(TASK)
        with pytest.raises(DeadlineExceeded):
            await runtime.delete(TASK)
        await runtime.cleanup(TASK, str(bundle))

    with_fault("hang-Delete", body, call_within=1.0)


def test_one_that_does_not_go_is_killed(with_fault: Callable[..., None], bundle: Path) -> None:
    async def body(runtime: Any) -> None:
        await runtime.create(TASK, CreateTask(str(bundle)))
        await runtime.start(TASK)
        await runtime.kill(TASK, signal.SIGKILL)
        await runtime.wait(TASK)
        await runtime.delete(TASK)

    with_fault("hang-Shutdown", body)


def test_one_that_says_it_is_process_1(with_fault: Callable[..., None], bundle: Path) -> None:
    async def body(runtime: Any) -> None:
        await runtime.create(TASK, CreateTask(str(bundle)))
        await runtime.cleanup(TASK, str(bundle))
        assert lives(1)

    with_fault("pid-one", body)


@pytest.mark.parametrize("fault", ["wrong-version", "reject-options", "reject-params"])
def test_what_is_found_out(with_fault: Callable[..., None], bundle: Path, fault: str) -> None:
    """It serves another version than it says, or reads one form of the start alone."""

    async def body(runtime: Any) -> None:
        await runtime.create(TASK, CreateTask(str(bundle)))
        await runtime.start(TASK)
        await runtime.cleanup(TASK, str(bundle))

    with_fault(fault, body)


@pytest.fixture
def recorder(tmp_path: Path) -> Path:
    """Writes down what it is started with, and fails."""
    path = tmp_path / "recorder"
    calls = tmp_path / "calls"
    path.write_text(
        f'#!/bin/sh\necho "$*" >> {calls}; env >> {calls}.env; cat > {calls}.stdin.$$\n'
        f"mv {calls}.stdin.$$ {calls}.stdin.$(ls {tmp_path} | grep -c stdin); exit 1\n"
    )
    path.chmod(0o755)
    return path


def recorded(tmp_path: Path, spawner: Spawner, request: CreateTask, **config: Any) -> None:
    runtime = make(tmp_path, spawner, **config)

    async def main() -> None:
        try:
            with pytest.raises(FailedPrecondition, match="recorder start: ended with status 1"):
                await runtime.create(TASK, request)
        finally:
            await runtime.stop()

    asyncio.run(main())


def test_the_options_reach_the_shim_in_both_forms(
    tmp_path: Path, spawner: Spawner, bundle: Path, recorder: Path
) -> None:
    recorded(
        tmp_path,
        spawner,
        CreateTask(str(bundle)),
        binary=str(recorder),
        options_type="containerd.runc.v1.Options",
        options={"root": "/x", "systemd_cgroup": True},
        debug=True,
    )
    call = (tmp_path / "calls").read_text().splitlines()[0]
    assert call.startswith(f"-namespace ns -id c -address {tmp_path}")
    assert call.endswith(f"-bundle {bundle} -debug start")
    env = (tmp_path / "calls.env").read_text()
    for line in ("NAMESPACE=ns", "MAX_SHIM_VERSION=3", "TTRPC_ADDRESS=", "GRPC_ADDRESS="):
        assert line in env
    carried = AnyMessage.FromString((tmp_path / "calls.stdin.1").read_bytes())
    params = BootstrapParams.FromString((tmp_path / "calls.stdin.2").read_bytes())
    assert (params.instance_id, params.namespace) == ("c", "ns")
    for given in (carried, params.extensions[0].value):
        assert given.type_url == "containerd.runc.v1.Options"
        assert Options.FromString(given.value) == Options(root="/x", systemd_cgroup=True)


def test_a_clients_options_come_before_the_operators(
    tmp_path: Path, spawner: Spawner, bundle: Path, recorder: Path
) -> None:
    request = CreateTask(str(bundle), options_type="my.Options", options=b"abc")
    recorded(tmp_path, spawner, request, binary=str(recorder), bootstrap="options")
    assert AnyMessage.FromString((tmp_path / "calls.stdin.1").read_bytes()) == AnyMessage(
        type_url="my.Options", value=b"abc"
    )
    assert "delete" in (tmp_path / "calls").read_text().splitlines()[1]
    assert (tmp_path / "calls.stdin.2").read_bytes() == b""


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"options_type": "containerd.runc.v1.Options", "options": {"rooot": "/x"}}, "rooot"),
        ({"options": {"root": "/x"}}, "no options_type"),
    ],
)
def test_options_that_are_wrong(tmp_path: Path, spawner: Spawner, config: dict[str, Any], says: str) -> None:
    binary = fakeshim.write(tmp_path, "")
    with pytest.raises(InvalidArgument, match=says):
        make(tmp_path, spawner, binary=str(binary), **config)


def test_a_log_worker_that_dies_is_replaced(with_fault: Callable[..., None], bundle: Path, tmp_path: Path) -> None:
    """What a container wrote meanwhile is in the FIFO, and comes."""
    out = tmp_path / "out"

    def workers() -> list[int]:
        return [
            int(pid) for pid in os.listdir("/proc") if pid.isdigit() and _listens(int(pid), bundle / "streams.sock")
        ]

    async def body(runtime: Any) -> None:
        await runtime.create(TASK, CreateTask(str(bundle), stdio=Stdio(stdout=f"file://{out}")))
        fifo = os.open(bundle / "fifos/init-stdout", os.O_RDWR)  # as shims hold it
        try:
            os.write(fifo, b"one\n")
            await asyncio.to_thread(until, lambda: out.read_bytes() == b"one\n")
            (worker,) = workers()
            os.kill(worker, signal.SIGKILL)
            os.write(fifo, b"two\n")
            await asyncio.to_thread(until, lambda: out.read_bytes() == b"one\ntwo\n")
            assert workers() not in ([worker], [])
        finally:
            os.close(fifo)
        await runtime.cleanup(TASK, str(bundle))
        await asyncio.to_thread(until, lambda: not workers())

    with_fault("", body)


def _listens(pid: int, path: Path) -> bool:
    """Whether the process holds the socket listening at `path`."""
    inodes = {
        line.split()[6]
        for line in Path("/proc/net/unix").read_text().splitlines()[1:]
        if line.endswith(f" {path}") and line.split()[3] == "00010000"
    }
    try:
        held = {os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()}
    except OSError:
        return False
    return any(f"socket:[{inode}]" in held for inode in inodes)
