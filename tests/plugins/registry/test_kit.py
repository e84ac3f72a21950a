"""The bundled image source `registry` keeps the contract of image sources, with a real registry."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from intermodal_core.spawner import Spawner
from intermodal_core.testing.image_sources import ImageSourceKit, Open
from intermodal_registry.settings import Settings
from intermodal_registry.source import RegistrySource

from tests.harness.registry import Registry, registry


class TestRegistry(ImageSourceKit):
    capabilities = frozenset({"push"})

    @pytest.fixture(scope="class")
    @classmethod
    def served(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
        with registry(tmp_path_factory.mktemp("served") / "registry") as served:
            cls.repository = f"{served.address}/kit/image"
            yield served

    @pytest.fixture
    def opened(self, served: Registry, spawner: Spawner, settings: Settings) -> Open:
        return lambda: RegistrySource(settings, spawner)
