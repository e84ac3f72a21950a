"""Runtimes with one fault each, which the kit must find: run by test_runtime_kit.py, not collected by itself."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from intermodal_core.contracts.runtimes import CreateTask, Exit, ProcessState, RuntimeInfo, Stats, Stdio, TaskRef
from intermodal_core.errors import AlreadyExists, IntermodalError, Internal, NotFound, Unavailable
from intermodal_core.spawner import Spawner
from intermodal_core.testing.runtimes import Open, RuntimeKit
from intermodal_runc.plugin import plugin
from intermodal_runc.runtime import RuncRuntime
from intermodal_shim.driver import ShimRuntime

from tests.harness.shims import Daemon, spawner

__all__ = ["spawner"]


class _Kit(RuntimeKit):
    capabilities = frozenset(plugin.capabilities) - {"checkpoint"}
    options = frozenset({"binary"})
    Mutant: type[ShimRuntime] = RuncRuntime
    Host: type[Daemon] = Daemon
    within = 5.0  # a fault may show by what does not come

    @pytest.fixture
    def opened(self, spawner: Spawner, tmp_path: Path, rootfs: Path) -> Open:
        @asynccontextmanager
        async def open_one(**options: Any) -> AsyncIterator[Daemon]:
            state = tmp_path / "state"
            state.mkdir(exist_ok=True)
            daemon = self.Host(spawner, state, rootfs, self.Mutant, **options)
            daemon.listen()
            try:
                yield daemon
            finally:
                await daemon.close()

        return open_one


class TestCorrect(_Kit):
    """No fault: nothing may fail."""

    within = 60.0


class TestR1(_Kit):
    class Mutant(RuncRuntime):
        """Takes its tasks with it."""

        async def stop(self) -> None:
            for pid in self._pids.values():
                os.kill(pid, signal.SIGKILL)
            await super().stop()


class TestR2(_Kit):
    class Mutant(RuncRuntime):
        """Tells an exit once."""

        async def wait(self, task: TaskRef, exec_id: str = "") -> Exit:
            told: set[tuple[TaskRef, str]] = self.__dict__.setdefault("_told", set())
            if (task, exec_id) in told:
                raise NotFound(task.id)
            told.add((task, exec_id))
            return await super().wait(task, exec_id)


class TestR3(_Kit):
    class Host(Daemon):
        """Hears of the exits in another order than they were."""

        async def event(self, topic: str, count: int = 1) -> Any:
            found = await super().event(topic, count)
            self.events.reverse()
            return found


class TestR4(_Kit):
    class Mutant(RuncRuntime):
        """Writes a file about each container, and forgets it where making it fails."""

        async def create(self, task: TaskRef, request: CreateTask) -> int:
            about = self._state / f"about-{task.id}"
            about.touch()
            pid = await super().create(task, request)
            about.unlink()
            return pid


class TestR5(_Kit):
    class Mutant(RuncRuntime):
        """Does one thing at a time."""

        async def wait(self, task: TaskRef, exec_id: str = "") -> Exit:
            async with self.__dict__.setdefault("_one", asyncio.Lock()):
                return await super().wait(task, exec_id)


class TestR6(_Kit):
    class Mutant(RuncRuntime):
        """Knows no version."""

        async def info(self) -> RuntimeInfo:
            return msgspec.structs.replace(await super().info(), version="")


class TestR7(_Kit):
    class Mutant(RuncRuntime):
        """Starts at once."""

        async def create(self, task: TaskRef, request: CreateTask) -> int:
            pid = await super().create(task, request)
            await super().start(task)
            return pid


class TestR7Error(_Kit):
    class Mutant(RuncRuntime):
        """Does not tell whose fault it is."""

        async def create(self, task: TaskRef, request: CreateTask) -> int:
            try:
                return await super().create(task, request)
            except AlreadyExists:
                raise
            except IntermodalError as error:
                raise Internal(str(error)) from error


class TestR8(_Kit):
    class Mutant(RuncRuntime):
        """Takes up what there is not."""

        async def connect(self, task: TaskRef, bundle: str) -> int:
            try:
                return await super().connect(task, bundle)
            except NotFound:
                return 0


class TestR9(_Kit):
    class Mutant(RuncRuntime):
        """Claims that all went well."""

        async def cleanup(self, task: TaskRef, bundle: str) -> Exit:
            return msgspec.structs.replace(await super().cleanup(task, bundle), status=0)


class TestR10(_Kit):
    class Mutant(RuncRuntime):
        """Starts twice, it says."""

        async def start(self, task: TaskRef, exec_id: str = "") -> int:
            state = await self.state(task, exec_id)
            return state.pid if state.status == "running" else await super().start(task, exec_id)


class TestR11(_Kit):
    class Mutant(RuncRuntime):
        """Starts an exec process at once."""

        async def exec(self, task: TaskRef, exec_id: str, process: bytes, stdio: Stdio) -> None:
            await super().exec(task, exec_id, process, stdio)
            await super().start(task, exec_id)


class TestR12(_Kit):
    class Mutant(RuncRuntime):
        """Knows one signal only."""

        async def kill(self, task: TaskRef, signal: int, exec_id: str = "", all: bool = False) -> None:
            await super().kill(task, 9, exec_id, all)


class TestR12Error(_Kit):
    class Mutant(RuncRuntime):
        """Thinks that what has ended was killed."""

        async def kill(self, task: TaskRef, signal: int, exec_id: str = "", all: bool = False) -> None:
            try:
                await super().kill(task, signal, exec_id, all)
            except NotFound:
                pass


class TestR13(_Kit):
    class Mutant(RuncRuntime):
        """Says that it is paused, and is not."""

        async def pause(self, task: TaskRef) -> None:
            return

        async def state(self, task: TaskRef, exec_id: str = "") -> ProcessState:
            return msgspec.structs.replace(await super().state(task, exec_id), status="paused")


class TestR14(_Kit):
    class Mutant(RuncRuntime):
        """Never goes on."""

        async def resume(self, task: TaskRef) -> None:
            return


class TestR15(_Kit):
    class Mutant(RuncRuntime):
        """Takes rows for columns."""

        async def resize(self, task: TaskRef, width: int, height: int, exec_id: str = "") -> None:
            await super().resize(task, height, width, exec_id)


class TestR16(_Kit):
    class Mutant(RuncRuntime):
        """Ends the process where only its input was to end."""

        async def close_stdin(self, task: TaskRef, exec_id: str = "") -> None:
            await super().kill(task, signal.SIGKILL, exec_id)


class TestR17(_Kit):
    class Mutant(RuncRuntime):
        """Does not tell what is wrong with a stream."""

        async def attach(self, task: TaskRef, fds: tuple[int, int, int], exec_id: str = "", hold: bool = False) -> None:
            try:
                await super().attach(task, fds, exec_id, hold)
            except IntermodalError as error:
                raise Internal(str(error)) from error


class TestR17Lost(_Kit):
    class Mutant(RuncRuntime):
        """Forgets one stream."""

        async def attach(self, task: TaskRef, fds: tuple[int, int, int], exec_id: str = "", hold: bool = False) -> None:
            await super().attach(task, (fds[0], fds[1], -1), exec_id, hold)


class TestR18(_Kit):
    class Mutant(RuncRuntime):
        """Changes nothing."""

        async def update(self, task: TaskRef, resources: bytes) -> None:
            msgspec.json.decode(resources)


class TestR19(_Kit):
    class Mutant(RuncRuntime):
        """Knows init only."""

        async def pids(self, task: TaskRef) -> list[int]:
            return (await super().pids(task))[:1]


class TestR20(_Kit):
    class Mutant(RuncRuntime):
        """Says the same for ever."""

        async def stats(self, task: TaskRef) -> Stats:
            first: Stats = self.__dict__.setdefault("_first", await super().stats(task))
            return first


class TestR21(_Kit):
    class Mutant(RuncRuntime):
        """Leaves checkpoints to a program that is not there."""

        async def checkpoint(self, task: TaskRef, path: str, options_type: str = "", options: bytes = b"") -> None:
            await ShimRuntime.checkpoint(self, task, path, options_type, options)


class TestR22(_Kit):
    class Mutant(RuncRuntime):
        """Waits no longer than a moment."""

        async def wait(self, task: TaskRef, exec_id: str = "") -> Exit:
            try:
                return await asyncio.wait_for(super().wait(task, exec_id), 0.1)
            except TimeoutError:
                return Exit(0, 0, 0)


class TestR22Gone(_Kit):
    class Mutant(RuncRuntime):
        """Takes a shim that is gone for a task that has ended."""

        async def wait(self, task: TaskRef, exec_id: str = "") -> Exit:
            try:
                return await super().wait(task, exec_id)
            except Unavailable:
                return Exit(0, 137, 0)


class TestR23(_Kit):
    class Mutant(RuncRuntime):
        """Has no word for a task that was not started."""

        async def state(self, task: TaskRef, exec_id: str = "") -> ProcessState:
            state = await super().state(task, exec_id)
            return msgspec.structs.replace(state, status="running") if state.status == "created" else state


class TestR24(_Kit):
    class Mutant(RuncRuntime):
        """Ends what still runs."""

        async def delete(self, task: TaskRef, exec_id: str = "") -> Exit:
            if (await super().state(task, exec_id)).status == "running":
                await super().kill(task, signal.SIGKILL, exec_id)
                await super().wait(task, exec_id)
            return await super().delete(task, exec_id)


class TestR25(_Kit):
    class Mutant(RuncRuntime):
        """Knows of what lives only."""

        async def processes(self, task: TaskRef) -> list[ProcessState]:
            return [state for state in await super().processes(task) if state.status != "stopped"]


class TestR26(_Kit):
    class Mutant(RuncRuntime):
        """Says what it finds in a word."""

        async def review(self, spec: bytes) -> list[str]:
            return [*await super().review(spec), "seccomp"]
