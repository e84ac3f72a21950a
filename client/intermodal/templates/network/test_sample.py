"""The network keeps its contract, and does what it is for."""

from __future__ import annotations

import pytest
from intermodal_core.contracts.networks import Attachment
from intermodal_core.errors import InvalidArgument
from intermodal_core.testing.networks import Attach, Factory, NetworkKit

from intermodal_sample.network import SampleNetwork
from intermodal_sample.plugin import plugin


class TestContract(NetworkKit):
    capabilities = frozenset(plugin.capabilities)
    modes = frozenset({"path"})

    @pytest.fixture
    def factory(self) -> Factory:
        return lambda root: SampleNetwork()

    def test_the_loopback_is_up_while_attached(self, network: SampleNetwork, attachment: Attach) -> None:
        one = attachment("one")
        result = network.attach(one).result
        network.check(one, result)
        network.detach(one, result)


def test_a_namespace_is_needed() -> None:
    with pytest.raises(InvalidArgument):
        SampleNetwork().attach(Attachment("id", "default", "web", "sample"))
