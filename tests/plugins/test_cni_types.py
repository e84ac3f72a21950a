"""The bundled CNI types keep the contract of types."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from intermodal_bandwidth.bandwidth import Bandwidth
from intermodal_bridge.bridge import Bridge
from intermodal_core.contracts.cni import CniType
from intermodal_core.testing.cni import CniKit
from intermodal_firewall.firewall import Firewall
from intermodal_hostdevice.hostdevice import HostDevice
from intermodal_hostlocal.hostlocal import HostLocal
from intermodal_ipvlan.ipvlan import Ipvlan
from intermodal_loopback.loopback import Loopback
from intermodal_macvlan.macvlan import Macvlan
from intermodal_netlink.route import RouteSocket, kind
from intermodal_portmap.portmap import PortMap
from intermodal_ptp.ptp import PointToPoint
from intermodal_static.static import Static
from intermodal_tuning.tuning import Tuning
from intermodal_vlan.vlan import Vlan

from tests.harness.links import missing_kind, own_network


@pytest.fixture(autouse=True)
def own_namespace() -> Any:
    """What a type makes on "the host" goes with the test's own network namespace."""
    with own_network():
        yield


def leases(tmp_path: Path, *subnets: str) -> dict[str, Any]:
    ranges = [[{"subnet": subnet}] for subnet in subnets or ("10.77.0.0/24", "fd77::/64")]
    return {"type": "host-local", "dataDir": str(tmp_path / "leases"), "ranges": ranges}


def parent(name: str) -> None:
    """A link of the host to hang others on."""
    with RouteSocket(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)) as links:
        links.add_link(name, kind("bridge"), up=True)


class TestBridge(CniKit):
    links = True
    wrong = (
        {"bridge": ""},
        {"bridge": "a-name-of-16-chars"},
        {"vlan": 5000},
        {"mtu": -1},
        {"mtu": "big"},
        {"hairpinMode": True, "promiscMode": True},
        {"ipam": {"type": "host-local", "subnet": "nonsense"}},
    )

    @pytest.fixture
    def instance(self) -> CniType:
        return Bridge()

    @pytest.fixture
    def config(self, tmp_path: Path) -> dict[str, Any]:
        return {
            "type": "bridge",
            "bridge": "kit0",
            "isDefaultGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": leases(tmp_path),
        }


class TestPointToPoint(CniKit):
    links = True
    wrong = ({"mtu": -1}, {"ipMasq": "yes"}, {"ipam": {}})

    @pytest.fixture
    def instance(self) -> CniType:
        return PointToPoint()

    @pytest.fixture
    def config(self, tmp_path: Path) -> dict[str, Any]:
        ipam = leases(tmp_path) | {"routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}
        return {"type": "ptp", "ipMasq": True, "ipam": ipam}


class TestLoopback(CniKit):
    @pytest.fixture
    def instance(self) -> CniType:
        return Loopback()

    @pytest.fixture
    def config(self) -> dict[str, Any]:
        return {"type": "loopback"}


class _OnParent(CniKit):
    links = True
    kind = ""

    @pytest.fixture(autouse=True)
    def parent(self, own_namespace: None) -> None:
        if why := missing_kind(self.kind):
            pytest.skip(why)
        parent("parent0")


class TestMacvlan(_OnParent):
    kind = "macvlan"
    wrong = ({"mode": "strange"}, {"master": "nobody"}, {"mtu": 100000})

    @pytest.fixture
    def instance(self) -> CniType:
        return Macvlan()

    @pytest.fixture
    def config(self, tmp_path: Path) -> dict[str, Any]:
        return {"type": "macvlan", "master": "parent0", "ipam": leases(tmp_path)}


class TestIpvlan(_OnParent):
    kind = "ipvlan"
    wrong = ({"mode": "strange"}, {"master": "nobody"})

    @pytest.fixture
    def instance(self) -> CniType:
        return Ipvlan()

    @pytest.fixture
    def config(self, tmp_path: Path) -> dict[str, Any]:
        return {"type": "ipvlan", "master": "parent0", "ipam": leases(tmp_path)}


class TestVlan(_OnParent):
    kind = "vlan"
    wrong = ({"vlanId": 0}, {"vlanId": 4095}, {"master": ""})

    @pytest.fixture
    def instance(self) -> CniType:
        return Vlan()

    @pytest.fixture
    def config(self, tmp_path: Path) -> dict[str, Any]:
        return {"type": "vlan", "master": "parent0", "vlanId": 7, "ipam": leases(tmp_path)}

    def vary(self, config: dict[str, Any], container: str) -> dict[str, Any]:
        return {**config, "vlanId": 10 + sum(container.encode()) % 4000}


class TestHostDevice(CniKit):
    links = True
    wrong = ({"device": "", "hwaddr": ""}, {"device": "", "kernelpath": "sys/devices"})

    @pytest.fixture
    def instance(self) -> CniType:
        return HostDevice()

    @pytest.fixture
    def config(self, tmp_path: Path, own_namespace: None) -> dict[str, Any]:
        return {"type": "host-device", "device": "", "ipam": leases(tmp_path)}

    def vary(self, config: dict[str, Any], container: str) -> dict[str, Any]:
        device = f"d-{container}"
        pair = ["ip", "link", "add", device, "type", "veth", "peer", "name", f"p-{container}"]
        subprocess.run(pair, check=True)
        return {**config, "device": device}

    def test_p3_the_namespace_is_gone(self, *_: Any) -> None:
        pytest.skip("a device that is no hardware goes with the namespace that it was lent to")

    def test_p6_gc_frees_the_dead_and_spares_the_living(self, *_: Any) -> None:
        pytest.skip("a device that is no hardware goes with the namespace that it was lent to")

    def test_p3_delete_undoes_add(self, *_: Any) -> None:
        pytest.skip("a device that comes back has another index: see test_cni_devices.py")


class TestHostLocal(CniKit):
    inside = False
    wrong = (
        {"ipam": {}},
        {"ipam": {"subnet": "10.0.0.0/31"}},
        {"ipam": {"subnet": "10.0.0.1/24"}},
        {"ipam": {"ranges": [[]]}},
        {"ipam": {"ranges": [[{"subnet": "10.0.0.0/24"}, {"subnet": "fd00::/64"}]]}},
        {"ipam": {"ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "10.0.0.0/16"}]]}},
        {"ipam": {"subnet": "10.0.0.0/24", "rangeStart": "10.0.1.1"}},
        {"ipam": {"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9", "rangeEnd": "10.0.0.3"}},
        {"args": {"cni": {"ips": ["10.99.0.1"]}}},
        {"args": {"cni": {"ips": ["10.77.0.1"]}}},
    )

    @pytest.fixture
    def instance(self) -> CniType:
        return HostLocal()

    @pytest.fixture
    def config(self, tmp_path: Path) -> dict[str, Any]:
        return {"type": "host-local", "ipam": leases(tmp_path)}


class TestStatic(CniKit):
    inside = False
    keeps = False
    wrong = ({"ipam": {}}, {"ipam": {"addresses": [{"address": "10.0.0.1"}]}}, {"args": {"cni": {"ips": ["here"]}}})

    @pytest.fixture
    def instance(self) -> CniType:
        return Static()

    @pytest.fixture
    def config(self) -> dict[str, Any]:
        return {"type": "static", "ipam": {"type": "static", "addresses": [{"address": "10.77.0.2/24"}]}}

    def vary(self, config: dict[str, Any], container: str) -> dict[str, Any]:
        address = f"10.77.{sum(container.encode()) % 250}.2/24"
        return {**config, "ipam": {"type": "static", "addresses": [{"address": address, "gateway": "10.77.0.1"}]}}


class _Chained(CniKit):
    """Types that change what a bridge made."""

    @pytest.fixture(autouse=True)
    def chain(self, tmp_path: Path) -> None:
        bridge = {"type": "bridge", "bridge": "kit0", "isGateway": True, "ipam": leases(tmp_path)}
        self.chained = (bridge,)


class TestPortMap(_Chained):
    inside = False
    wrong = tuple(
        {"runtimeConfig": {"portMappings": [mapping]}}
        for mapping in (
            {"hostPort": 80},
            {"hostPort": 80, "containerPort": 0},
            {"hostPort": 70000, "containerPort": 80},
            {"hostPort": 80, "containerPort": 80, "protocol": "icmp"},
            {"hostPort": 80, "containerPort": 80, "hostIP": "here"},
            {"hostPort": 80, "containerPort": 80, "hostIP": "192.0.2.1"},
        )
    )

    @pytest.fixture
    def instance(self) -> CniType:
        return PortMap()

    @pytest.fixture
    def config(self) -> dict[str, Any]:
        return {"type": "portmap"}

    def vary(self, config: dict[str, Any], container: str) -> dict[str, Any]:
        port = 20000 + sum(container.encode())
        mappings = [
            {"hostPort": port, "containerPort": 80},
            {"hostPort": port, "containerPort": 80, "protocol": "udp"},
            {"hostPort": port + 10000, "containerPort": 81, "hostIP": "127.0.0.1"},
        ]
        return {**config, "runtimeConfig": {"portMappings": mappings}}


class TestFirewall(_Chained):
    inside = False
    wrong = ({"ingressPolicy": "perhaps"},)

    @pytest.fixture
    def instance(self) -> CniType:
        return Firewall()

    @pytest.fixture
    def config(self) -> dict[str, Any]:
        return {"type": "firewall", "ingressPolicy": "same-bridge"}


class TestTuning(_Chained):
    wrong = ({"sysctl": {"kernel.panic": "1"}}, {"sysctl": {"net.ipv4.../x": "1"}}, {"mac": "ab"}, {"mtu": -1})

    @pytest.fixture
    def instance(self) -> CniType:
        return Tuning()

    @pytest.fixture
    def config(self, tmp_path: Path) -> dict[str, Any]:
        return {
            "type": "tuning",
            "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"},
            "mac": "02:00:00:00:00:09",
            "mtu": 1400,
            "promisc": True,
            "dataDir": str(tmp_path / "tuning"),
        }


class TestBandwidth(_Chained):
    wrong = (
        {"ingressRate": 0},
        {"egressBurst": 0},
        {"ingressRate": -1, "ingressBurst": 8},
        {"ingressRate": 1, "ingressBurst": 1},
    )

    @pytest.fixture
    def instance(self) -> CniType:
        return Bandwidth()

    @pytest.fixture
    def config(self) -> dict[str, Any]:
        return {
            "type": "bandwidth",
            "ingressRate": 80_000_000,
            "ingressBurst": 8_000_000,
            "egressRate": 40_000_000,
            "egressBurst": 8_000_000,
        }
