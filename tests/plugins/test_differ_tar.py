"""The bundled tar differ keeps the contract of differs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from intermodal_core.contracts.differs import ApplyLimits
from intermodal_core.contracts.kinds import DIFFERS
from intermodal_core.spawner import Spawner
from intermodal_core.testing.differs import DifferKit, Factory
from intermodal_core.testing.isolation import IsolatedKit
from intermodal_tar.differ import WORKER, TarDiffer


@pytest.fixture(scope="module")
def spawner() -> Iterator[Spawner]:
    spawner = Spawner()
    spawner.preload(WORKER, deadline=30)
    yield spawner
    spawner.close()


class TestTar(DifferKit):
    capabilities = frozenset({"limits", "devices", "timeout", "worker", "alone", "compare"})

    @pytest.fixture
    def factory(self, spawner: Spawner) -> Factory:
        return partial(TarDiffer, spawner)


@pytest.mark.slow
class TestTarIsolated(IsolatedKit, DifferKit):
    capabilities = frozenset({"limits", "devices", "worker"})

    @pytest.fixture
    def factory(self, isolated: Any) -> Factory:
        open_differ = isolated("intermodal_tar.plugin:plugin", DIFFERS)

        def make(root: Path, *, limits: ApplyLimits | None = None, devices: bool = True) -> Any:
            most = limits or ApplyLimits()
            return open_differ(
                root,
                devices="allow" if devices else "deny",
                max_bytes=most.bytes,
                max_files=most.files,
                max_depth=most.depth,
                max_ratio=most.ratio,
            )

        return make
