"""The bundled runtime `runc` keeps the contract of runtimes, with the real runc."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from intermodal_core.contracts.kinds import RUNTIMES
from intermodal_core.isolation import Process
from intermodal_core.plugin import Context, Plugin
from intermodal_core.spawner import Spawner
from intermodal_core.testing.isolation import nothing_to_call, start_of
from intermodal_core.testing.runtimes import Open, RuntimeKit
from intermodal_runc.plugin import Config, plugin
from intermodal_runc.runtime import RuncRuntime
from intermodal_shim.driver import FORKED
from intermodal_shim.runtime import Options
from intermodal_shim.shared import Sharing

from tests.harness.shims import Daemon, spawner

__all__ = ["spawner"]


class TestRunc(RuntimeKit):
    sharing: Sharing = "container"
    capabilities = frozenset(plugin.capabilities) - ({"checkpoint"} if shutil.which("criu") is None else set())
    options = frozenset({"binary"})

    @pytest.fixture
    def opened(self, spawner: Spawner, tmp_path: Path, rootfs: Path) -> Open:
        @asynccontextmanager
        async def open_one(**options: Any) -> AsyncIterator[Daemon]:
            state = tmp_path / "state"
            state.mkdir(exist_ok=True)
            daemon = Daemon(spawner, state, rootfs, partial(RuncRuntime, sharing=self.sharing), **options)
            daemon.listen()
            try:
                yield daemon
            finally:
                await daemon.close()

        return open_one


def _telling_all(context: Context[Config]) -> RuncRuntime:
    """As the plugin makes one, with the events that the kit wants to see."""
    options = Options(binary=context.config.binary)
    return RuncRuntime("runc", context.spawner, context.state_dir(), context.address, options, all_events=True)


isolated = Plugin(_telling_all, config=Config, forked=(FORKED,))


@pytest.mark.slow
class TestRuncIsolated(TestRunc):
    @pytest.fixture
    def opened(self, spawner: Spawner, tmp_path: Path, rootfs: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
        monkeypatch.syspath_prepend(Path(__file__).parents[2])

        @asynccontextmanager
        async def open_one(**options: Any) -> AsyncIterator[Daemon]:
            state = tmp_path / "state"
            state.mkdir(exist_ok=True)
            daemon = Daemon(spawner, state, rootfs, RuncRuntime)
            daemon.listen()
            start = start_of(f"{__name__}:isolated", RUNTIMES, tmp_path, **options)
            start = replace(start, state=state, address=daemon.address)
            process = Process("runtimes.runc", start, spawner, nothing_to_call, lambda: None)
            await process.load()
            await process.construct()
            async with process.stand_in as apart:
                ours, daemon.runtime = daemon.runtime, apart  # type: ignore[assignment]
                try:
                    yield daemon
                finally:
                    daemon.runtime = ours
                    await daemon.close()

        return open_one


@pytest.mark.slow
class TestRuncInOneShim(TestRunc):
    """All containers of the namespace in one shim."""

    sharing: Sharing = "namespace"
