"""What the kit cannot ask of a device that is lent: it comes back, under its own name."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from intermodal_cni.executable import load_type
from intermodal_cni.executables import Executables
from intermodal_cni.host import TypesHost
from intermodal_core.child import Completed
from intermodal_core.contracts.cni import Call
from intermodal_core.errors import FailedPrecondition
from intermodal_hostdevice.hostdevice import HostDevice
from intermodal_netlink.namespaces import Local
from intermodal_netlink.route import RouteSocket

from tests.harness.cni import namespace
from tests.harness.links import own_network


@pytest.fixture(autouse=True)
def own_namespace() -> Iterator[None]:
    with own_network():
        subprocess.run(["ip", "link", "add", "lent", "type", "veth", "peer", "name", "other"], check=True)
        yield


def refused(*_: object, **__: object) -> Completed:
    raise AssertionError("nothing is executed here")


@pytest.fixture
def host() -> TypesHost:
    return TypesHost(load_type, Local(), Executables((), refused))


@pytest.fixture
def call(tmp_path: Path) -> Iterator[Call]:
    ipam = {"type": "host-local", "dataDir": str(tmp_path / "leases"), "subnet": "10.77.0.0/24"}
    config = {"cniVersion": "1.1.0", "name": "lending", "type": "host-device", "device": "lent", "ipam": ipam}
    with namespace(tmp_path / "netns", "c") as path:
        yield Call(config, "c", path, "eth0")


def names() -> set[str]:
    with RouteSocket(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)) as links:
        return {link.name for link in links.links()}


@pytest.mark.parametrize("by", ["device", "hwaddr"])
def test_a_device_is_lent_and_comes_back(call: Call, host: TypesHost, by: str) -> None:
    if by == "hwaddr":
        with RouteSocket(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)) as links:
            config = {**call.config, "device": "", "hwaddr": links.link("lent").mac.upper()}
        call = msgspec.structs.replace(call, config=config)
    device = HostDevice()
    result = device.add(call, host)
    assert names() == {"lo", "other"}
    assert [each.name for each in result.interfaces] == ["eth0"]
    after = msgspec.structs.replace(call, previous=result)
    device.check(after, host)
    for _ in range(2):
        device.delete(after, host)
        assert names() == {"lo", "lent", "other"}
    with pytest.raises(FailedPrecondition):
        device.check(after, host)


def test_a_device_stays_where_no_address_is_to_be_had(call: Call, host: TypesHost) -> None:
    ipam = {**call.config["ipam"], "rangeStart": "10.77.0.2", "rangeEnd": "10.77.0.2"}
    full = msgspec.structs.replace(call, config={**call.config, "ipam": ipam})
    load = load_type("host-local")
    assert load is not None
    load("ADD", msgspec.structs.replace(full, container="somebody"), host)
    with pytest.raises(Exception, match="no address"):
        HostDevice().add(full, host)
    assert names() == {"lo", "lent", "other"}


def test_a_device_that_is_not_there(call: Call, host: TypesHost) -> None:
    missing = msgspec.structs.replace(call, config={**call.config, "device": "nobody"})
    with pytest.raises(FailedPrecondition, match="no device nobody"):
        HostDevice().add(missing, host)
