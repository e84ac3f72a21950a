"""What the tests of the runtimes' kit stand on: the fixtures, of which an author defines `opened`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, ClassVar, Protocol

import pytest

from intermodal_core.contracts.common import Mount
from intermodal_core.contracts.runtimes import CreateTask, Exit, Runtime, Stdio, TaskRef
from intermodal_core.testing.bundles import MakeBundle, bundles, busybox_rootfs, cgroup_parent_of_its_own
from intermodal_core.testing.kit import Kit
from intermodal_core.testing.recording import watch

__all__ = [
    "FOREVER",
    "NOBODY",
    "Body",
    "MakeBundle",
    "Open",
    "Opened",
    "RuntimeFixtures",
    "Tasks",
    "cgroups_of",
    "lives",
    "process",
    "until",
]

FOREVER = ("sleep", "1000")
NOBODY = TaskRef("kit", "nobody")


class Opened(Protocol):
    """A runtime in use, and what it has told: `events` are topics with messages of `containerd.events`, in their order."""

    @property
    def runtime(self) -> Runtime:
        """The runtime."""

    @property
    def events(self) -> list[tuple[str, Any]]:
        """All events until now."""

    async def event(self, topic: str, count: int = 1) -> Any:
        """The count-th event of a topic, waited for."""


#: Opens the runtime as a daemon does that starts, `opened(**options)`; leaving the context is the daemon's end.
Open = Callable[..., AbstractAsyncContextManager[Opened]]
Body = Callable[["Tasks"], Awaitable[None]]


class Tasks:
    """One opened runtime, and the calls that most tests make."""

    def __init__(self, opened: Opened, rootfs: tuple[Mount, ...]) -> None:
        self.opened = opened
        self.runtime = watch(opened.runtime, Runtime)
        self._rootfs = rootfs
        self.created: list[tuple[TaskRef, str]] = []

    async def create(self, bundle: Path, stdio: Stdio | None = None, checkpoint: str = "") -> TaskRef:
        """Create the bundle's container, whose id is the directory's name."""
        task = TaskRef("kit", bundle.name)
        request = CreateTask(str(bundle), self._rootfs, stdio or Stdio(), checkpoint=checkpoint)
        await self.runtime.create(task, request)
        self.created.append((task, str(bundle)))
        return task

    async def started(self, bundle: Path, stdio: Stdio | None = None) -> TaskRef:
        """Create and start."""
        task = await self.create(bundle, stdio)
        await self.runtime.start(task)
        return task

    async def attempt(self, bundle: Path) -> None:
        """Create and start what cannot be: some find out only when they start it."""
        task = await self.create(bundle)
        try:
            await self.runtime.start(task)
        finally:
            await self.runtime.delete(task)

    async def end(self, task: TaskRef) -> Exit:
        """Kill and delete."""
        await self.runtime.kill(task, signal.SIGKILL)
        await self.runtime.wait(task)
        return await self.runtime.delete(task)


class RuntimeFixtures(Kit):
    """A runtime on a loop, bundles, and a check that nothing is left."""

    contracts = (Runtime,)
    makers = ()
    #: Names of the options that `opened` takes: `binary`, a path of the runtime's binary.
    options: frozenset[str] = frozenset()
    #: Type and bytes of the options by which a checkpoint ends the container.
    checkpoint_options: tuple[str, bytes] = ("", b"")
    #: Options of `opened` under which one can be taken.
    checkpoint_opened: ClassVar[dict[str, Any]] = {}
    #: Seconds that each test may take.
    within: float = 60.0

    # -- what a subclass may say --------------------------------------------------------------------------------------

    @pytest.fixture
    def opened(self) -> Open:
        """Opens the runtime."""
        raise NotImplementedError("define the fixture `opened`")

    @pytest.fixture(scope="class")
    @classmethod
    def rootfs(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """The root filesystem of all bundles: one of busybox."""
        return busybox_rootfs(tmp_path_factory.mktemp("rootfs"))

    @pytest.fixture
    def make_bundle(self, tmp_path: Path) -> Iterator[MakeBundle]:
        """Makes bundles, of the OCI runtime specification."""
        with cgroup_parent_of_its_own() as parent, bundles(tmp_path, parent) as make:
            yield make

    @pytest.fixture
    def mounts(self, rootfs: Path) -> tuple[Mount, ...]:
        """What is to be mounted at a bundle's `rootfs`."""
        return (Mount("bind", str(rootfs), ("rbind", "ro")),)

    async def orphan(self, tasks: Tasks, task: TaskRef) -> None:
        """Kill what holds a task for the runtime, so that only `cleanup` can help; here, the parent of its init."""
        init = (await tasks.runtime.state(task)).pid
        status = Path(f"/proc/{init}/status").read_text()
        parent = int(status.partition("PPid:")[2].split()[0])
        assert parent not in (1, os.getpid()), "nothing holds the task: override `orphan`"
        os.kill(parent, signal.SIGKILL)

    # -- helpers ------------------------------------------------------------------------------------------------------

    @pytest.fixture
    def run(self, opened: Open, mounts: tuple[Mount, ...], make_bundle: MakeBundle) -> Iterator[Callable[..., None]]:
        """`run(body, **options)` opens the runtime for `body(tasks)`; again, as the next daemon does.

        What a test that failed has left is cleaned up, before the bundles go.
        """
        created: list[tuple[TaskRef, str]] = []
        whole = True

        def run(body: Body, **options: Any) -> None:
            nonlocal whole

            async def main() -> None:
                async with asyncio.timeout(self.within), opened(**options) as given:
                    tasks = Tasks(given, mounts)
                    try:
                        await body(tasks)
                    finally:
                        created.extend(tasks.created)

            whole = False
            asyncio.run(main())
            whole = True

        async def clean(tasks: Tasks) -> None:
            for task, bundle in created:
                await tasks.runtime.cleanup(task, bundle)

        yield run
        if not whole:
            run(clean)

    @pytest.fixture
    def fifo(self, tmp_path: Path) -> Iterator[Path]:
        """A FIFO."""
        path = tmp_path / "fifo"
        os.mkfifo(path)
        yield path
        path.unlink()

    def declares(self, capability: str) -> None:
        """Skip the test where neither a capability nor an option of that name is declared."""
        if capability not in self.options:
            super().declares(capability)


def process(*args: str, terminal: bool = False) -> bytes:
    """An OCI process as JSON."""
    user = {"uid": 0, "gid": 0}
    return json.dumps({"args": args, "env": ["PATH=/bin"], "cwd": "/", "user": user, "terminal": terminal}).encode()


def lives(pid: int) -> bool:
    """Whether there is such a process, other than one that has ended and waits to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def cgroups_of(pid: int) -> list[Path]:
    """The directories of a process's cgroups."""
    paths = {line.split(":", 2)[2] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()} - {"/"}
    tops = [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").glob("*/")]
    return [found for path in paths for top in tops if (found := top / path[1:]).is_dir()]


async def until(is_so: Callable[[], bool], within: float = 10.0) -> None:
    """Wait for what no call tells."""
    end = time.monotonic() + within
    while not is_so():
        assert time.monotonic() < end, "it did not come to be so in time"
        await asyncio.sleep(0.01)
