"""The bundled runtime `runsc` keeps the contract of runtimes, with the real gVisor."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from intermodal_api.containerd.runtime.runc_options_pb2 import CheckpointOptions
from intermodal_core.spawner import Spawner
from intermodal_core.testing.runtimes import Open, RuntimeKit
from intermodal_runsc.platform import Probe, probe
from intermodal_runsc.plugin import Config, plugin
from intermodal_runsc.runtime import RunscRuntime

from tests.harness.shims import Daemon

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("runsc") is None, reason="gVisor's runsc is not installed"),
]


@pytest.fixture(scope="module")
def spawner() -> Iterator[Spawner]:
    spawner = Spawner()
    for module in plugin.forked:
        spawner.preload(module, deadline=30)
    yield spawner
    spawner.close()


@pytest.fixture(scope="module")
def found(spawner: Spawner, tmp_path_factory: pytest.TempPathFactory) -> Probe:
    binary = shutil.which("runsc")
    assert binary
    return probe(spawner, binary, tmp_path_factory.mktemp("probe"), "auto")


class TestRunsc(RuntimeKit):
    capabilities = frozenset(plugin.capabilities)
    options = frozenset({"binary"})
    checkpoint_options = (CheckpointOptions.DESCRIPTOR.full_name, CheckpointOptions(exit=True).SerializeToString())
    checkpoint_opened: ClassVar[dict[str, Any]] = {"network": "none"}  # on the host's, gVisor takes none

    @pytest.fixture
    def opened(self, spawner: Spawner, found: Probe, tmp_path: Path, rootfs: Path) -> Open:
        @asynccontextmanager
        async def open_one(**options: Any) -> AsyncIterator[Daemon]:
            state = tmp_path / "state"
            state.mkdir(exist_ok=True)
            config = msgspec.convert(options, Config)

            def make(
                name: str, spawner: Spawner, state: Path, events: str, _: object, all_events: bool
            ) -> RunscRuntime:
                return RunscRuntime("runsc", spawner, state, events, config, found, all_events=all_events)

            daemon = Daemon(spawner, state, rootfs, make)
            daemon.listen()
            try:
                yield daemon
            finally:
                await daemon.close()

        return open_one
