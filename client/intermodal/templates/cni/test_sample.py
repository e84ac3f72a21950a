"""The type keeps the contract of CNI types, and does what it is for."""

from __future__ import annotations

from typing import Any

import pytest
from intermodal_core.contracts.cni import Host
from intermodal_core.testing.cni import CniKit, Make

from intermodal_sample.cni import SampleType


class TestContract(CniKit):
    wrong = ({"ttl": 0}, {"ttl": 256}, {"ttl": "far"}, {"ttl": None})

    @pytest.fixture
    def instance(self) -> SampleType:
        return SampleType()

    @pytest.fixture
    def config(self) -> dict[str, Any]:
        return {"type": "sample", "ttl": 32}

    def test_p2_it_is_set_in_the_namespace_alone(self, instance: SampleType, make: Make, host: Host) -> None:
        one = make("one")
        outside = host.sysctl("", "ipv4/ip_default_ttl")
        instance.add(one, host)
        assert host.sysctl(one.netns, "ipv4/ip_default_ttl").strip() == "32"
        assert host.sysctl("", "ipv4/ip_default_ttl") == outside
