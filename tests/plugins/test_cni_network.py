"""The network `cni`: the contract of networks, lists as they come and go, and whatever goes wrong in a chain."""

from __future__ import annotations

import json
import shutil
import socket
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from intermodal_cni.errors import number_of
from intermodal_core.contracts.networks import Network, NetworkSpec, PortMapping
from intermodal_core.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    IntermodalError,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from intermodal_core.testing.networks import Factory, NetworkKit
from intermodal_netlink.namespaces import Local

from tests.harness.cni import Attached, attachment, cni_network, namespace
from tests.harness.links import listening, own_network


@pytest.fixture(autouse=True)
def own_namespace() -> Iterator[None]:
    with own_network():
        yield


def bridge_list(top: Path, name: str = "net", subnet: str = "10.77.0.0/24", **keys: Any) -> dict[str, Any]:
    ipam = {"type": "host-local", "dataDir": str(top / "leases"), "ranges": [[{"subnet": subnet}]]}
    bridge = {"type": "bridge", "bridge": f"{name}0", "isDefaultGateway": True, "ipMasq": True, "ipam": ipam, **keys}
    bridge.setdefault("hairpinMode", True)
    return {
        "cniVersion": "1.1.0",
        "name": name,
        "plugins": [
            bridge,
            {"type": "portmap", "capabilities": {"portMappings": True}},
            {"type": "firewall", "ingressPolicy": "same-bridge"},
        ],
    }


def put(top: Path, document: dict[str, Any], file: str = "") -> Path:
    directory = top / "root/networks/cni/net.d"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / (file or f"{document['name']}.conflist")
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
def top(tmp_path: Path) -> Path:
    return tmp_path / "daemon"


@pytest.fixture
def cni(top: Path) -> Iterator[Attached]:
    put(top, bridge_list(top))
    config = f'[networks.cni]\ndirectories = ["{top}/etc"]\nbin = ["{top}/bin"]\nexecutable_deadline = 2.0'
    with cni_network(top, config) as network:
        yield network


class World:
    """Namespaces of a test's containers, and what is there of networks."""

    def __init__(self, top: Path, stack: ExitStack) -> None:
        self.top = top
        self._stack = stack

    def netns(self, name: str) -> str:
        return self._stack.enter_context(namespace(self.top / "netns", name))

    def state(self) -> object:
        rules = subprocess.run(["nft", "-s", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
        links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
        names = sorted(line.split()[0].partition("@")[0] for line in links.splitlines())
        files = sorted(str(p) for p in self.top.rglob("*") if p.is_file() and self._counts(p))
        return names, rules, files

    def _counts(self, path: Path) -> bool:
        below = path.relative_to(self.top).parts[0]
        return below not in ("netns", "events", "bin", "etc") and not path.name.startswith(("lock", "last_"))

    def settle(self, cni: Attached) -> object:
        """What is there once a first container has come and gone."""
        netns = self.netns("first")
        cni.add("first", netns, "net", ports=(PortMapping(19999, 80),))
        cni.detach(attachment("first", netns, "net"), b"")
        return self.state()


@pytest.fixture
def world(top: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(top, stack)


class TestContract(NetworkKit):
    capabilities = frozenset({"netns"})
    modes = frozenset({"path"})

    @pytest.fixture
    def factory(self) -> Iterator[Factory]:
        with ExitStack() as stack:

            def make(root: Path) -> Network:
                put(root, bridge_list(root))
                network = stack.enter_context(cni_network(root, "[networks.cni]\ndirectories = []"))
                assert isinstance(network, Network)
                return network

            yield make

    @pytest.fixture
    def inventory(self, root: Path) -> Callable[[], object]:
        return lambda: World(root, ExitStack()).state()


# Lists.


def test_there_is_a_default_that_works(top: Path, world: World) -> None:
    with cni_network(top, "[networks.cni]\ndirectories = []") as cni:
        (view,) = cni.views()
        assert view.own
        netns = world.netns("c")
        result = cni.add("c", netns, "")
        assert len(result.addresses) == 1
        cni.check(attachment("c", netns, ""), result.result)
        cni.detach(attachment("c", netns, ""), result.result)


def test_a_directory_that_is_made_anew_is_seen(cni: Attached, top: Path) -> None:
    etc = top / "etc"
    assert [view.name for view in cni.views()] == ["net"]
    for name in ("a", "b"):
        etc.mkdir()
        (etc / "10.conflist").write_text(json.dumps(bridge_list(top, name, "10.78.0.0/24")))
        assert [(view.name, view.own) for view in cni.views()] == [("net", True), (name, False)]
        shutil.rmtree(etc)
        assert [view.name for view in cni.views()] == ["net"]


def test_lists_of_others_are_used_and_not_removed(cni: Attached, top: Path, world: World) -> None:
    etc = top / "etc"
    etc.mkdir()
    single = {"cniVersion": "0.3.1", "name": "single", "type": "loopback"}
    (etc / "1.conf").write_text(json.dumps(single))
    (etc / "2.conflist").write_text(json.dumps(bridge_list(top, "net", "10.79.0.0/24")))  # ours comes first
    (etc / "3.json").write_text("{")
    views = {view.name: view for view in cni.views()}
    assert not views["single"].own
    assert views["net"].subnets == ("10.77.0.0/24",)
    assert views["3.json"].error.startswith(f"{etc}/3.json:1: not JSON")
    netns = world.netns("c")
    assert cni.add("c", netns, "single", interface="lo").addresses == ("127.0.0.1/8", "::1/128")
    cni.detach(attachment("c", netns, "single", interface="lo"), b"")
    with pytest.raises(FailedPrecondition, match="belongs to another program"):
        cni.remove("single")
    with pytest.raises(InvalidArgument, match="not JSON"):
        cni.add("c", netns, "3")
    with pytest.raises(NotFound, match="there are: net, single"):
        cni.add("c", netns, "nobody")


def test_networks_are_made_and_removed(cni: Attached, top: Path, world: World) -> None:
    made = cni.create(
        NetworkSpec(name="two", subnets=("10.80.0.0/24", "fd80::/64"), gateways=("10.80.0.9",), internal=True)
    )
    assert made.own
    netns = world.netns("c")
    assert cni.add("c", netns, "two").addresses == ("10.80.0.1/24", "fd80::2/64")
    with pytest.raises(FailedPrecondition, match="in use"):
        cni.remove("two")
    cni.detach(attachment("c", netns, "two"), b"")
    automatic = cni.create(NetworkSpec(name="three"))
    assert automatic.subnets[0].startswith("10.64.")
    for spec, error in (
        (NetworkSpec(name="two"), AlreadyExists),
        (NetworkSpec(name="a/b"), InvalidArgument),
        (NetworkSpec(name="x", driver="strange"), InvalidArgument),
        (NetworkSpec(name="x", subnets=("10.80.0.128/25",)), FailedPrecondition),
        (NetworkSpec(name="x", subnets=("10.90.0.0/24", "10.90.0.0/16")), FailedPrecondition),
        (NetworkSpec(name="x", subnets=("10.90.0.1/24",)), InvalidArgument),
        (NetworkSpec(name="x", subnets=("10.90.0.0/24",), gateways=("10.91.0.1",)), InvalidArgument),
    ):
        with pytest.raises(error):
            cni.create(spec)
    for name in ("two", "three"):
        cni.remove(name)
    assert [view.name for view in cni.views()] == ["net"]
    assert not subprocess.run(["ip", "-br", "link", "show", "type", "bridge"], capture_output=True, check=True).stdout


# What goes wrong.


def test_nothing_is_done_for_no_ports(cni: Attached, world: World) -> None:
    netns = world.netns("c")
    cni.add("c", netns, "net")
    rules = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    assert "imod-portmap" not in rules
    assert "imod-masquerade" in rules
    cni.detach(attachment("c", netns, "net"), b"")


@pytest.mark.parametrize(
    ("keys", "error", "words"),
    [
        ({"ports": (PortMapping(18090, 80),)}, FailedPrecondition, "in use by a process"),
        ({"ports": (PortMapping(18091, 80),)}, FailedPrecondition, "in use by the container test__other"),
        ({"ports": (PortMapping(18092, 80), PortMapping(18092, 81))}, FailedPrecondition, "port"),
        ({"ports": (PortMapping(18093, 80, host_ip="192.0.2.7"),)}, InvalidArgument, "no address of this host"),
        ({"addresses": ("10.77.0.1",)}, InvalidArgument, "gateway"),
        ({"addresses": ("10.99.0.1",)}, InvalidArgument, "no range"),
        ({"addresses": ("here",)}, InvalidArgument, "address"),
        ({"addresses": ("10.77.0.77",)}, FailedPrecondition, "leased to another"),
        ({"mac": "02:00:00:00:00:01"}, InvalidArgument, "no plugin of the network net declares mac"),
        ({"interface": "an-interface-name"}, InvalidArgument, "cannot be the name of an interface"),
    ],
)
def test_what_cannot_be_had(cni: Attached, world: World, keys: dict[str, Any], error: type, words: str) -> None:
    other = world.netns("other")
    cni.add("other", other, "net", ports=(PortMapping(18091, 80),), addresses=("10.77.0.77",))
    world.settle(cni)
    before, netns = world.state(), world.netns("c")
    with listening(18090), pytest.raises(error, match=words):
        cni.add("c", netns, "net", **keys)
    assert world.state() == before
    cni.detach(attachment("other", other, "net"), b"")


def test_a_range_that_is_exhausted(cni: Attached, top: Path, world: World) -> None:
    put(top, bridge_list(top, subnet="10.77.0.0/30"))
    netns = world.netns("one")
    cni.add("one", netns, "net")
    before = world.state()
    with pytest.raises(ResourceExhausted, match="no address of"):
        cni.add("two", world.netns("two"), "net")
    assert world.state() == before
    cni.detach(attachment("one", netns, "net"), b"")
    cni.add("two", world.netns("again"), "net")
    cni.detach(attachment("two", "", "net"), b"")


def test_ranges_that_overlap(cni: Attached, top: Path, world: World) -> None:
    document = bridge_list(top)
    document["plugins"][0]["ipam"]["ranges"].append([{"subnet": "10.77.0.128/25"}])
    put(top, document)
    before = world.state()
    with pytest.raises(InvalidArgument, match="overlap"):
        cni.add("c", world.netns("c"), "net")
    assert world.state() == before


def test_an_interface_that_is_there(cni: Attached, world: World) -> None:
    before, netns = world.settle(cni), world.netns("c")
    subprocess.run(["nsenter", f"--net={netns}", "ip", "link", "add", "eth0", "type", "bridge"], check=True)
    with pytest.raises(AlreadyExists, match="eth0") as raised:
        cni.add("c", netns, "net")
    assert number_of(raised.value) == 101
    assert world.state() == before


def test_a_bridge_that_vanished(cni: Attached, world: World) -> None:
    netns = world.netns("c")
    result = cni.add("c", netns, "net")
    subprocess.run(["ip", "link", "delete", "net0"], check=True)
    with pytest.raises(FailedPrecondition, match="the bridge net0 is gone"):
        cni.check(attachment("c", netns, "net"), result.result)
    other = world.netns("other")
    cni.check(attachment("other", other, "net"), cni.add("other", other, "net").result)
    for name, path in (("c", netns), ("other", other)):
        cni.detach(attachment(name, path, "net"), b"")


def test_a_name_that_is_no_bridge(cni: Attached, world: World) -> None:
    subprocess.run(["ip", "link", "add", "net0", "type", "veth", "peer", "name", "net1"], check=True)
    with pytest.raises(FailedPrecondition, match="no bridge, but a veth"):
        cni.add("c", world.netns("c"), "net")
    subprocess.run(["ip", "link", "delete", "net0"], check=True)


SCRIPTS = {
    "hangs": ("sleep 1000", DeadlineExceeded, "has not ended within 2"),
    "prints garbage": ("echo garbage", IntermodalError, "printed 'garbage' instead of a result"),
    "says nothing": ("exit 0", IntermodalError, "ended without a result"),
    "is killed": ("kill -9 $$", FailedPrecondition, "ended with signal 9"),
    "fails in words": ("echo no luck >&2; exit 3", FailedPrecondition, "ended with status 3: no luck"),
    "fails by the book": ('echo \'{"code": 11, "msg": "later"}\'; exit 1', IntermodalError, "later"),
    "has a result that is none": ('echo \'{"ips": [{"address": "x"}]}\'', InvalidArgument, "the result is not one"),
}


def script(top: Path, name: str, text: str) -> None:
    (top / "bin").mkdir(exist_ok=True)
    path = top / "bin" / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_executable_that(cni: Attached, top: Path, world: World, name: str) -> None:
    """What it does at ADD fails the chain, and all before it is undone; its DEL does nothing."""
    before = world.settle(cni)
    text, error, words = SCRIPTS[name]
    script(top, "strange", f'[ "$CNI_COMMAND" = DEL ] && exit 0\n{text}')
    document = bridge_list(top)
    document["plugins"].append({"type": "strange"})
    put(top, document)
    with pytest.raises(error, match=words) as raised:
        cni.add("c", world.netns("c"), "net")
    assert "strange ADD" in str(raised.value)
    put(top, bridge_list(top))
    assert world.state() == before
    left = subprocess.run(["pgrep", "-f", f"{top}/bin/strange"], capture_output=True, text=True, check=False)
    assert left.stdout == ""


def test_an_executable_that_is_not_there(cni: Attached, top: Path, world: World) -> None:
    document = bridge_list(top)
    document["plugins"].append({"type": "nowhere"})
    put(top, document)
    with pytest.raises(IntermodalError, match=f"no CNI plugin nowhere in {top}/bin"):
        cni.add("c", world.netns("c"), "net")


def test_what_cannot_be_undone_is_owed_with_the_list_of_its_add(cni: Attached, top: Path, world: World) -> None:
    """The list is changed, and then removed: DEL is of what was added."""
    before = world.settle(cni)
    script(top, "strange", 'cat >/dev/null; [ -e "$0.ok" ] || exit 1\necho \'{"cniVersion": "1.1.0", "ips": []}\'')
    (top / "bin/strange.ok").touch()
    document = bridge_list(top)
    document["plugins"].insert(0, {"type": "strange"})
    path = put(top, document)
    netns = world.netns("c")
    cni.add("c", netns, "net")
    (top / "bin/strange.ok").unlink()
    path.unlink()
    one = attachment("c", netns, "net")
    with pytest.raises(FailedPrecondition, match="strange DEL"):
        cni.detach(one, b"")
    assert subprocess.run(["ip", "link", "show", "master", "net0"], capture_output=True, check=True).stdout == b"", (
        "the rest"
    )
    (top / "bin/strange.ok").touch()
    cni.detach(one, b"")
    put(top, bridge_list(top))
    assert world.state() == before


def test_gc_is_of_our_own_networks_alone(cni: Attached, top: Path, world: World) -> None:
    """What another runtime has in a network of others' stays; in ours there is nobody else."""
    (top / "etc").mkdir()
    (top / "etc/1.conflist").write_text(json.dumps(bridge_list(top, "shared", "10.81.0.0/24")))
    for name in ("shared", "net"):
        (top / "leases" / name).mkdir(parents=True, exist_ok=True)
        (top / "leases" / name / "10.81.0.9").write_text("somebody\r\neth0")
    netns = world.netns("c")
    cni.add("c", netns, "shared")
    cni.gc(())
    assert (top / "leases/shared/10.81.0.9").exists()
    assert [p.name for p in (top / "leases/shared").glob("10.*")] == ["10.81.0.9"], "our own is given back"
    assert not (top / "leases/net/10.81.0.9").exists()


def test_networks_are_isolated_but_for_published_ports(cni: Attached, top: Path, world: World) -> None:
    put(top, bridge_list(top, "two", "10.82.0.0/24"))
    paths = {name: world.netns(name) for name in ("a", "b", "far")}
    a = cni.add("a", paths["a"], "net", ports=(PortMapping(18095, 80),)).addresses[0].partition("/")[0]
    cni.add("b", paths["b"], "net")
    cni.add("far", paths["far"], "two")
    with serving(paths["a"]):
        assert reached(paths["b"], a, 80), "one network"
        assert reached(paths["far"], "10.82.0.1", 18095), "a published port, from another network"
        assert reached(paths["b"], "10.77.0.1", 18095), "a published port, from the same network"
        assert reached(paths["a"], "10.77.0.1", 18095), "a published port, from the container itself"
        assert reached("", "127.0.0.1", 18095), "a published port, from the host"
        assert not reached(paths["far"], a, 80), "another network"
    for name, network in (("a", "net"), ("b", "net"), ("far", "two")):
        cni.detach(attachment(name, paths[name], network), b"")


@contextmanager
def serving(netns: str) -> Iterator[None]:
    """A server on port 80 of a namespace, which says hello and closes."""
    with Local().socket(netns, socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("0.0.0.0", 80))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"hello")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def reached(netns: str, address: str, port: int) -> bool:
    with Local().socket(netns, socket.AF_INET, socket.SOCK_STREAM) as client:
        client.settimeout(3)
        try:
            client.connect((address, port))
            return client.recv(10) == b"hello"
        except OSError:
            return False


@pytest.mark.parametrize(
    "count", [pytest.param(100, marks=pytest.mark.slow), pytest.param(500, marks=pytest.mark.soak)]
)
def test_many_at_once(cni: Attached, top: Path, world: World, count: int) -> None:
    """Sixteen at once: no address is given twice, and nothing of it stays."""
    put(top, bridge_list(top, subnet="10.77.0.0/27"))
    before = world.settle(cni)
    held: set[str] = set()
    lock = threading.Lock()

    def one(number: int) -> None:
        with namespace(top / "netns", f"n{number}") as netns:
            place = attachment(f"c{number}", netns, "net", ports=(PortMapping(20000 + number, 80),))
            result = cni.attach(place)
            with lock:
                assert not held & set(result.addresses)
                held.update(result.addresses)
            if number % 7 == 0:
                cni.check(place, result.result)
            with lock:
                held.difference_update(result.addresses)
            cni.detach(place, result.result)

    (top / "netns").mkdir(exist_ok=True)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(one, range(count)))
    assert world.state() == before


def test_a_type_in_a_process_of_its_own(top: Path, world: World) -> None:
    """It asks the daemon for sockets inside the container, and for other types, from there."""
    put(top, bridge_list(top))
    with cni_network(top, '[networks.cni]\ndirectories = []\n[cni.bridge]\nisolation = "process"') as cni:
        netns = world.netns("c")
        result = cni.add("c", netns, "net")
        cni.check(attachment("c", netns, "net"), result.result)
        cni.detach(attachment("c", netns, "net"), result.result)
        assert cni.registry.find("cni", "bridge").isolated
