"""The bundled tar differ keeps the contract of differs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
from intermodal_core.spawner import Spawner
from intermodal_core.testing.differs import DifferKit, Factory
from intermodal_tar.differ import WORKER, TarDiffer


@pytest.fixture(scope="module")
def spawner() -> Iterator[Spawner]:
    spawner = Spawner()
    spawner.preload(WORKER, deadline=30)
    yield spawner
    spawner.close()


class TestTar(DifferKit):
    capabilities = frozenset({"limits", "devices", "timeout", "worker", "alone"})

    @pytest.fixture
    def factory(self, spawner: Spawner) -> Factory:
        return partial(TarDiffer, spawner)
