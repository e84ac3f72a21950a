"""Bundles for runc and a daemon for shims: a busybox root filesystem and a small spec, with a cgroup parent of each test's own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from intermodal_core.contracts.common import Mount
from intermodal_core.contracts.runtimes import CreateTask, Stdio, TaskRef
from intermodal_core.spawner import Spawner
from intermodal_core.testing.bundles import MakeBundle, bundles, busybox_rootfs, cgroup_parent_of_its_own
from intermodal_shim.driver import FORKED, ShimRuntime
from intermodal_shim.runtime import Options
from intermodal_shim.testing import ShimDaemon


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with busybox and its applets; shared, so containers get it read-only."""
    return busybox_rootfs(tmp_path_factory.mktemp("rootfs"))


@pytest.fixture
def cgroup_parent() -> Iterator[str]:
    """A cgroup parent of this test's own; afterwards nothing is left below it."""
    with cgroup_parent_of_its_own() as parent:
        yield parent


@pytest.fixture
def make_bundle(tmp_path: Path, cgroup_parent: str) -> Iterator[MakeBundle]:
    """make_bundle(id, *args, **changes to the spec) -> the bundle's directory, its rootfs a read-only mount to be made."""
    with bundles(tmp_path, cgroup_parent) as make:
        yield make


@pytest.fixture
def make_process() -> Callable[..., bytes]:
    """make_process(*args) -> an OCI process as JSON."""

    def make(*args: str, terminal: bool = False) -> bytes:
        process = {"args": args, "env": ["PATH=/bin"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "terminal": terminal}
        return json.dumps(process).encode()

    return make


class Daemon(ShimDaemon):
    """A daemon with a runtime that takes the options of runc's kind; all events unless said otherwise."""

    def __init__(
        self,
        spawner: Spawner,
        state: Path,
        rootfs: Path,
        driver: Callable[..., ShimRuntime] = ShimRuntime,
        all_events: bool = True,
        **options: Any,
    ) -> None:
        def make(address: str, **options: Any) -> ShimRuntime:
            return driver("runc", spawner, state, address, Options(**options), all_events=all_events)

        super().__init__(make, state, **options)
        self._rootfs = Mount("bind", str(rootfs), ("rbind", "ro"))

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
    """with_daemon(body, **options of the runtime): run `body(daemon)` on a loop, within so many seconds."""

    def run(body: Body, listening: bool = True, within: float = 60, **options: Any) -> None:
        async def main() -> None:
            state = tmp_path / "state"
            state.mkdir(exist_ok=True)
            daemon = Daemon(spawner, state, rootfs, **options)
            if listening:
                daemon.listen()
            try:
                async with asyncio.timeout(within):
                    await body(daemon)
            finally:
                await daemon.close()

        asyncio.run(main())

    return run
