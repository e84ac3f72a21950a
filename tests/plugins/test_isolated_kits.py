"""Bundled plugins that are lent things, or that lend them, keep their contracts in a process of their own, too."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from intermodal_core.contracts.cni import CniType
from intermodal_core.contracts.image_sources import ImageSource
from intermodal_core.contracts.kinds import CNI, EVENT_SINKS, IMAGE_SOURCES, VERIFIERS
from intermodal_core.isolation import Process
from intermodal_core.spawner import Spawner
from intermodal_core.testing.event_sinks import Factory as SinkFactory
from intermodal_core.testing.image_sources import Open
from intermodal_core.testing.isolation import IsolatedKit, nothing_to_call, start_of
from intermodal_core.testing.verifiers import Factory as VerifierFactory

from tests.harness.signing import public
from tests.plugins import test_cni_types, test_event_sink_kits
from tests.plugins.registry import test_kit as registry_kit
from tests.plugins.registry.conftest import settings, spawner
from tests.plugins.test_cni_types import own_namespace
from tests.plugins.verifiers import test_cosign

__all__ = ["own_namespace", "settings", "spawner"]

pytestmark = pytest.mark.slow

Isolate = Callable[..., Callable[..., Any]]


class TestHostLocalIsolated(IsolatedKit, test_cni_types.TestHostLocal):
    @pytest.fixture
    def instance(self, isolated: Isolate, tmp_path: Path) -> CniType:
        return isolated("intermodal_hostlocal.plugin:plugin", CNI)(tmp_path / "own")  # type: ignore[no-any-return]


class TestBridgeIsolated(IsolatedKit, test_cni_types.TestBridge):
    """It asks its host for sockets in namespaces, and for addresses, of another type."""

    @pytest.fixture
    def instance(self, isolated: Isolate, tmp_path: Path) -> CniType:
        return isolated("intermodal_bridge.plugin:plugin", CNI)(tmp_path / "own")  # type: ignore[no-any-return]


class TestJsonLinesIsolated(IsolatedKit, test_event_sink_kits.TestJsonLines):
    @pytest.fixture
    def factory(self, isolated: Isolate) -> SinkFactory:
        make = isolated("intermodal_jsonl.plugin:plugin", EVENT_SINKS)
        return lambda top: make(top / "own", path=str(top / "events.jsonl"))


class TestCosignIsolated(IsolatedKit, test_cosign.TestEcdsa):
    @pytest.fixture
    def factory(self, isolated: Isolate, tmp_path: Path) -> VerifierFactory:
        key = public(test_cosign.KEYS[self.kind], tmp_path / "key.pub")
        make = isolated("intermodal_cosign.plugin:plugin", VERIFIERS)
        return lambda: make(tmp_path / "own", keys=[str(key)])


class TestRegistryIsolated(registry_kit.TestRegistry):
    @pytest.fixture
    def opened(self, served: Any, spawner: Spawner, settings: Any, tmp_path: Path) -> Open:
        start = start_of("intermodal_registry.plugin:plugin", IMAGE_SOURCES, tmp_path / "own")

        @asynccontextmanager
        async def open_one() -> AsyncIterator[ImageSource]:
            process = Process("image_sources.registry", start, spawner, nothing_to_call, lambda: None)
            await process.load()
            await process.construct()
            async with process.stand_in as apart:
                yield apart

        return open_one  # type: ignore[return-value]
