"""The bundled networks `none` and `host` keep the contract of networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from intermodal_core.contracts.kinds import NETWORKS
from intermodal_core.contracts.networks import Network
from intermodal_core.testing.contexts import context_of
from intermodal_core.testing.isolation import IsolatedKit
from intermodal_core.testing.networks import Factory, NetworkKit
from intermodal_host.plugin import plugin as host
from intermodal_none.plugin import plugin as none


class TestHost(NetworkKit):
    capabilities = frozenset(host.capabilities)
    modes = frozenset({"host"})

    @pytest.fixture
    def factory(self) -> Factory:
        def make(root: Path) -> Network:
            network = host.factory(context_of("networks", "host", host.config(), root))
            assert isinstance(network, Network)
            return network

        return make


class TestHostIsolated(IsolatedKit, TestHost):
    @pytest.fixture
    def factory(self, isolated: Any) -> Factory:
        return isolated("intermodal_host.plugin:plugin", NETWORKS)  # type: ignore[no-any-return]


class TestNone(NetworkKit):
    capabilities = frozenset(none.capabilities)
    modes = frozenset({"new"})

    @pytest.fixture
    def factory(self) -> Factory:
        def make(root: Path) -> Network:
            network = none.factory(context_of("networks", "none", none.config(), root))
            assert isinstance(network, Network)
            return network

        return make


class TestNoneIsolated(IsolatedKit, TestNone):
    @pytest.fixture
    def factory(self, isolated: Any) -> Factory:
        return isolated("intermodal_none.plugin:plugin", NETWORKS)  # type: ignore[no-any-return]
