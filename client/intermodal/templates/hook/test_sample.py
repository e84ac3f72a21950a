"""The hooks keep their contract, and do what they are for."""

from __future__ import annotations

import pytest
from intermodal_core.contracts.hooks import ContainerInfo, Pull
from intermodal_core.errors import PermissionDenied
from intermodal_core.testing.hooks import Factory, HooksKit

from intermodal_sample.hooks import SampleHooks


class TestContract(HooksKit):
    @pytest.fixture
    def factory(self) -> Factory:
        return lambda: SampleHooks({"SITE": "here"}, ["docker.io/"])


def test_the_environment_is_added_to() -> None:
    hooks = SampleHooks({"SITE": "here", "PATH": "/never"}, [])
    spec = hooks.adjust_spec({"process": {"env": ["PATH=/bin"]}}, ContainerInfo("default", "web"))
    assert spec == {"process": {"env": ["PATH=/bin", "SITE=here"]}}


def test_what_may_not_be_pulled() -> None:
    hooks = SampleHooks({}, ["docker.io/"])
    assert hooks.before_pull(Pull("default", "registry.example/busybox:latest")) is None
    with pytest.raises(PermissionDenied, match="nothing below docker.io/ may"):
        hooks.before_pull(Pull("default", "docker.io/library/busybox:latest"))
