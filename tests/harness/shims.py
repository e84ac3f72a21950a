"""Bundles for runc and a daemon for shims: a busybox root filesystem and a small spec, with a cgroup parent of each test's own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from intermodal_api.containerd.events import task_pb2 as events
from intermodal_api.containerd.services.ttrpc_events_pb2 import ForwardRequest
from intermodal_core.contracts.common import Mount
from intermodal_core.contracts.runtimes import CreateTask, Stdio, TaskRef
from intermodal_core.errors import Unavailable
from intermodal_core.spawner import Spawner
from intermodal_shim.driver import FORKED, ShimRuntime
from intermodal_shim.runtime import Options
from intermodal_ttrpc.server import Call, Server, bind

BUSYBOX = Path("/bin/busybox")
CONTROLLERS = ("cpu", "cpuacct", "memory", "pids", "blkio", "devices", "freezer", "cpuset", "unified", "systemd")

MakeBundle = Callable[..., Path]


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with busybox and its applets; shared, so containers get it read-only."""
    root = tmp_path_factory.mktemp("rootfs")
    for name in ("bin", "dev", "proc", "sys", "tmp", "etc"):
        (root / name).mkdir()
    shutil.copy2(BUSYBOX, root / "bin/busybox")
    applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for applet in applets:
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    return root


@pytest.fixture
def cgroup_parent() -> Iterator[str]:
    """A cgroup parent of this test's own; afterwards nothing is left below it."""
    parent = f"/imtest-{os.getpid()}"
    yield parent
    deadline = time.monotonic() + 10  # a runtime's delete command may go on behind the answer
    while (left := _cgroups_below(parent)) and time.monotonic() < deadline:
        time.sleep(0.01)
    for directory in left:
        directory.rmdir()
    for controller in CONTROLLERS:
        with contextlib.suppress(FileNotFoundError):
            Path("/sys/fs/cgroup", controller, parent[1:]).rmdir()
    assert not left, f"cgroups left behind: {left}"


def _cgroups_below(parent: str) -> list[Path]:
    tops = [Path("/sys/fs/cgroup", controller, parent[1:]) for controller in CONTROLLERS]
    return [child for top in tops for child in sorted(top.rglob("*"), reverse=True) if child.is_dir()]


@pytest.fixture
def make_bundle(tmp_path: Path, rootfs: Path, cgroup_parent: str) -> Iterator[MakeBundle]:
    """make_bundle(id, *args, **changes to the spec) -> the bundle's directory, its rootfs a read-only mount to be made."""
    bundles: list[Path] = []

    def make(container: str, *args: str, terminal: bool = False, pid_namespace: bool = True, **changes: Any) -> Path:
        bundle = tmp_path / container
        bundle.mkdir()
        (bundle / "rootfs").mkdir()
        spec: dict[str, Any] = {
            "ociVersion": "1.0.2",
            "process": {
                "terminal": terminal,
                "user": {"uid": 0, "gid": 0},
                "args": list(args),
                "env": ["PATH=/bin"],
                "cwd": "/",
            },
            "root": {"path": "rootfs", "readonly": True},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance"]},
                {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"},
            ],
            "linux": {
                "cgroupsPath": f"{cgroup_parent}/{container}",
                "namespaces": [{"type": kind} for kind in ("mount", "ipc", "uts", *(["pid"] if pid_namespace else []))],
            },
        }
        linux = changes.pop("linux", {})
        spec["linux"].update(linux)
        spec["process"].update(changes.pop("process", {}))
        spec.update(changes)
        (bundle / "config.json").write_text(json.dumps(spec))
        bundles.append(bundle)
        return bundle

    yield make
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    left = [point for point in mounted if any(point.startswith(f"{bundle}/") for bundle in bundles)]
    for point in left:
        subprocess.run(["umount", "-l", point], check=False)
    assert not left, f"mounts left behind: {left}"


@pytest.fixture
def make_process() -> Callable[..., bytes]:
    """make_process(*args) -> an OCI process as JSON."""

    def make(*args: str, terminal: bool = False) -> bytes:
        process = {"args": args, "env": ["PATH=/bin"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "terminal": terminal}
        return json.dumps(process).encode()

    return make


class Daemon:
    """What a daemon is to shims: a driver, and a ttrpc socket that takes events, all of them unless said otherwise."""

    def __init__(
        self,
        spawner: Spawner,
        state: Path,
        rootfs: Path,
        driver: Callable[..., ShimRuntime] = ShimRuntime,
        all_events: bool = True,
        **options: Any,
    ) -> None:
        self.state = state
        self.address = str(state / "events.ttrpc")
        self.runtime = driver("runc", spawner, state, self.address, Options(**options), all_events=all_events)
        self.events: list[tuple[str, Message]] = []
        self.changed = asyncio.Condition()
        self._rootfs = Mount("bind", str(rootfs), ("rbind", "ro"))
        self._server: Server | None = None
        self.refuse = 0

    def listen(self) -> None:
        forward = {"Forward": (ForwardRequest, self._forward)}
        self._server = Server(bind(self.address), {"containerd.services.events.ttrpc.v1.Events": forward})

    async def close(self) -> None:
        await self.runtime.stop()
        if self._server is not None:
            await self._server.stop()

    async def _forward(self, request: ForwardRequest, call: Call) -> Empty:
        if self.refuse:
            self.refuse -= 1
            raise Unavailable("not committed")
        envelope = request.envelope
        kind = getattr(events, envelope.event.type_url.rpartition(".")[2])
        async with self.changed:
            self.events.append((envelope.topic, kind.FromString(envelope.event.value)))
            self.changed.notify_all()
        return Empty()

    async def event(self, topic: str, count: int = 1) -> Any:
        """The count-th event of the topic, waited for."""
        async with self.changed:
            await self.changed.wait_for(lambda: sum(name == topic for name, _ in self.events) >= count)
        return [event for name, event in self.events if name == topic][count - 1]

    async def create(self, bundle: Path, stdio: Stdio | None = None, **request: Any) -> TaskRef:
        """Create the bundle's container; its id is the directory's name."""
        task = TaskRef("imtest", bundle.name)
        given = CreateTask(bundle=str(bundle), rootfs=(self._rootfs,), stdio=stdio or Stdio(), **request)
        await self.runtime.create(task, given)
        return task

    async def rest(self, task: TaskRef) -> int:
        """Wait until the started task's shim is at rest; its pid."""
        shim = self.runtime.shim_pid(task)
        await asyncio.to_thread(_wait_for_rest, Path(f"/proc/{shim}/fd"))
        return shim

    async def end(self, task: TaskRef) -> None:
        """Kill and delete."""
        await self.runtime.kill(task, signal.SIGKILL)
        await self.runtime.wait(task)
        await self.runtime.delete(task)


def _target(fd: Path) -> str:
    try:
        return os.readlink(fd)
    except FileNotFoundError:
        return ""  # closed since


def _wait_for_rest(fds: Path) -> None:
    """A shim at rest polls; before that only the process that serves does."""
    deadline = time.monotonic() + 10
    while "anon_inode:[eventpoll]" not in {_target(fd) for fd in fds.iterdir()}:
        assert time.monotonic() < deadline, "the shim does not come to rest"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def spawner() -> Iterator[Spawner]:
    spawner = Spawner()
    spawner.preload(FORKED, deadline=30)
    yield spawner
    spawner.close()


Body = Callable[[Daemon], Awaitable[None]]


@pytest.fixture
def with_daemon(spawner: Spawner, tmp_path: Path, rootfs: Path) -> Callable[..., None]:
    """with_daemon(body, **options of the runtime): run `body(daemon)` on a loop, within 60 s."""

    def run(body: Body, listening: bool = True, **options: Any) -> None:
        async def main() -> None:
            state = tmp_path / "state"
            state.mkdir(exist_ok=True)
            daemon = Daemon(spawner, state, rootfs, **options)
            if listening:
                daemon.listen()
            try:
                async with asyncio.timeout(60):
                    await body(daemon)
            finally:
                await daemon.close()

        asyncio.run(main())

    return run
