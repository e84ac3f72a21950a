"""The bundled runtime `runc` keeps the contract of runtimes, with the real runc."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from intermodal_core.spawner import Spawner
from intermodal_core.testing.runtimes import Open, RuntimeKit
from intermodal_runc.plugin import plugin
from intermodal_runc.runtime import RuncRuntime

from tests.harness.shims import Daemon, spawner

__all__ = ["spawner"]


class TestRunc(RuntimeKit):
    capabilities = frozenset(plugin.capabilities)
    options = frozenset({"binary"})

    @pytest.fixture
    def opened(self, spawner: Spawner, tmp_path: Path, rootfs: Path) -> Open:
        @asynccontextmanager
        async def open_one(**options: Any) -> AsyncIterator[Daemon]:
            state = tmp_path / "state"
            state.mkdir(exist_ok=True)
            daemon = Daemon(spawner, state, rootfs, RuncRuntime, **options)
            daemon.listen()
            try:
                yield daemon
            finally:
                await daemon.close()

        return open_one
