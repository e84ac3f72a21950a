"""Our daemon and Debian's containerd, to be asked the same."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from intermodal_api.containerd.services import leases_pb2

from tests.harness.api import Api
from tests.harness.containerd import containerd
from tests.harness.daemon import PrivateDaemon


@pytest.fixture(scope="module")
def ours() -> Iterator[PrivateDaemon]:
    """A daemon that a module's tests share, each in a namespace of its own."""
    with PrivateDaemon() as daemon:
        yield daemon


@pytest.fixture(scope="module", params=["intermodal", "containerd"])
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of our daemon, and of a stock one: what a test finds is true of both."""
    if request.param == "intermodal":
        yield request.getfixturevalue("ours").address
    else:
        with containerd() as address:
            yield address


@pytest.fixture
def api(address: str) -> Iterator[Api]:
    """Either daemon, in a namespace of the test's own."""
    with Api(address, f"n{secrets.token_hex(4)}") as api:
        yield api


@pytest.fixture
def kept(api: Api) -> Api:
    """The same, under a lease: what is made stays until it is deleted, wherever there is a collector."""
    api.lease = api.call(leases_pb2, "Create", id="kept").lease.id
    return api


@pytest.fixture
def our_api(ours: PrivateDaemon) -> Iterator[Api]:
    """Our daemon, in a namespace of the test's own."""
    with Api(ours.address, f"n{secrets.token_hex(4)}") as api:
        yield api
