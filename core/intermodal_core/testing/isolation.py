"""Runs a kit's backend in a process of its own, as `isolation = "process"` does in the daemon.

    class TestMineIsolated(IsolatedKit, SnapshotterKit):
        capabilities = frozenset(plugin.capabilities)

        @pytest.fixture
        def factory(self, isolated):
            return isolated("my_snapshotter.plugin:plugin", SNAPSHOTTERS)

`isolated(value, kind, **options)` gives a function that takes the instance's directory, and options that go on top of
these; what it returns has the contract's methods as a kit calls them, and `process`, the `intermodal_core.isolation.Process`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import pytest

from intermodal_core.config import Config, Section
from intermodal_core.config import load as load_config
from intermodal_core.discovery import Found
from intermodal_core.errors import NotFound
from intermodal_core.isolated import Start
from intermodal_core.isolation import Process
from intermodal_core.kinds import Kind
from intermodal_core.spawner import Spawner

__all__ = ["IsolatedKit", "nothing_to_call", "start_of"]


def start_of(value: str, kind: Kind, root: Path, **options: Any) -> Start:
    """What a process must know of the plugin that `value` ("module:attribute") names, with its directories below `root`."""
    config: Config = load_config(None)
    return Start(
        found=Found(kind.name, "kit", value, "kit", "0"),
        kind=kind,
        section=Section(config, kind.name, "kit", options),
        root=root,
        state=root.parent / f"{root.name}.state",
        address=str(root.parent / "daemon.sock"),
        deadline=30,
        limit=kind.deadline,
        threads=kind.threads,
        log_level=logging.INFO,
        interfaces={},
    )


async def nothing_to_call(target: str, name: str) -> NoReturn:
    """What a process may call of a kit's: nothing."""
    raise NotFound(f"a kit has no {target}.{name}")


class _Blocking:
    """A process with a blocking face."""

    def __init__(self, process: Process, wait: Callable[[Awaitable[Any]], Any], close: str) -> None:
        self.process = process
        self._wait = wait
        self._close = close
        wait(self._enter())

    async def _enter(self) -> None:
        await self.process.load()
        await self.process.construct()
        await self.process.watch()

    def end(self) -> None:
        """End the process."""
        self._wait(self.process.stop())

    def __getattr__(self, name: str) -> Any:
        if name == self._close:
            return self.end
        member = self.process.member(name)
        return (lambda *given, **named: self._wait(member(*given, **named))) if callable(member) else member


class IsolatedKit:
    """The fixture `isolated`; to be named before the kit."""

    #: A process started before a fork is not the forked process's: tests that end one between two steps are skipped.
    forks = False

    @pytest.fixture
    def isolated(self) -> Iterator[Callable[..., Callable[..., Any]]]:
        """See the module."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="isolated")
        thread.start()
        spawner = Spawner()
        open_ones: list[_Blocking] = []

        def wait(work: Any) -> Any:
            return asyncio.run_coroutine_threadsafe(work, loop).result(120)

        def isolate(value: str, kind: Kind, **common: Any) -> Callable[..., Any]:
            def make(root: Path, **options: Any) -> _Blocking:
                start = start_of(value, kind, root, **common, **options)

                async def prepare() -> Process:
                    return Process(f"{kind.name}.kit", start, spawner, nothing_to_call, lambda: None)

                made = _Blocking(wait(prepare()), wait, kind.close)
                open_ones.append(made)
                return made

            return make

        yield isolate
        for each in open_ones:
            with suppress(Exception):
                each.end()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        spawner.close()
