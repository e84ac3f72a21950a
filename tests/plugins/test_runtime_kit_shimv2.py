"""The bundled runtime `shimv2` keeps the contract of runtimes, with containerd's own shim and with ours as a program."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from intermodal_core.contracts.common import Mount
from intermodal_core.spawner import Spawner
from intermodal_core.testing.runtimes import MakeBundle, Open, RuntimeKit
from intermodal_shimv2.plugin import Config, plugin
from intermodal_shimv2.runtime import ForeignRuntime

from tests.harness.shims import Daemon, cgroup_parent, make_bundle, rootfs

__all__ = ["cgroup_parent", "make_bundle", "rootfs"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def spawner() -> Iterator[Spawner]:
    spawner = Spawner()
    for module in plugin.forked:
        spawner.preload(module, deadline=30)
    yield spawner
    spawner.close()


class _Kit(RuntimeKit):
    capabilities = frozenset(plugin.capabilities) - {"checkpoint"}  # CRIU is not here
    options = frozenset({"binary"})
    binary = ""

    @pytest.fixture
    def make_bundle(self, make_bundle: MakeBundle) -> MakeBundle:
        return make_bundle

    @pytest.fixture
    def mounts(self, rootfs: Path) -> tuple[Mount, ...]:
        return (Mount("bind", str(rootfs), ("rbind", "ro")),)

    @pytest.fixture
    def opened(self, spawner: Spawner, tmp_path: Path, rootfs: Path) -> Open:
        @asynccontextmanager
        async def open_one(**options: Any) -> AsyncIterator[Daemon]:
            state = tmp_path / "state"
            state.mkdir(exist_ok=True)
            runc = {"options_type": "containerd.runc.v1.Options", "options": {"root": str(tmp_path / "runc")}}
            config = msgspec.convert({"binary": self.binary, **runc, **options}, Config)

            def make(name: str, spawner: Spawner, state: Path, events: str, _: object, all_events: bool) -> Any:
                return ForeignRuntime("shimv2", spawner, str(state / "main.sock"), events, config)

            daemon = Daemon(spawner, state, rootfs, make)
            daemon.listen()
            try:
                yield daemon
            finally:
                await daemon.close()

        return open_one


@pytest.mark.skipif(shutil.which("containerd-shim-runc-v2") is None, reason="containerd's shim is not installed")
class TestContainerdsShim(_Kit):
    """Version 2 of the task API, and a bare address."""

    binary = "io.containerd.runc.v2"


class TestOurShim(_Kit):
    """Version 3 of the task API, and an address in JSON."""

    binary = str(Path(sys.executable).parent / "containerd-shim-intermodal-v1")
