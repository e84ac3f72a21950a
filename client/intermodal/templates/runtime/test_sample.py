"""The runtime keeps its contract, with the real binary."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from intermodal_core.errors import PluginSkipped
from intermodal_core.spawner import Spawner
from intermodal_core.testing.contexts import context_of
from intermodal_core.testing.runtimes import Open, RuntimeKit
from intermodal_shim.driver import FORKED
from intermodal_shim.runtime import Options
from intermodal_shim.testing import opener

from intermodal_sample.plugin import Config, plugin
from intermodal_sample.runtime import SampleRuntime


@pytest.fixture(scope="module")
def spawner() -> Iterator[Spawner]:
    spawner = Spawner()
    spawner.preload(FORKED, deadline=30)
    yield spawner
    spawner.close()


class TestContract(RuntimeKit):
    capabilities = frozenset(plugin.capabilities)
    options = frozenset({"binary"})

    @pytest.fixture
    def opened(self, spawner: Spawner, tmp_path: Path) -> Open:
        state = tmp_path / "state"

        def make(address: str, **options: Any) -> SampleRuntime:
            return SampleRuntime("sample", spawner, state, address, Options(**options), all_events=True)

        return opener(make, state)


def test_without_a_binary_it_is_skipped(tmp_path: Path) -> None:
    with pytest.raises(PluginSkipped, match="nowhere-runc") as raised:
        plugin.factory(context_of("runtimes", "sample", Config(binary="nowhere-runc"), tmp_path))
    assert "install nowhere-runc" in raised.value.remedy
