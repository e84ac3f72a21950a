"""Our types as executables, in stock chains; and executables in ours. Debian's plugins are of CNI 1.0: they know no GC or STATUS."""

from __future__ import annotations

import ipaddress
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.harness.cni import DEBIAN, IMOD_CNI, Chain, execute, linked, namespace
from tests.harness.links import own_network

pytestmark = pytest.mark.skipif(not (DEBIAN / "bridge").exists(), reason="containernetworking-plugins is not installed")


@pytest.fixture(autouse=True)
def network() -> Iterator[None]:
    with own_network():
        yield


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    return linked(
        tmp_path / "bin", "bridge", "host-local", "portmap", "static", "loopback", "firewall", "ptp", "bandwidth"
    )


@pytest.fixture
def netns(tmp_path: Path) -> Iterator[str]:
    with namespace(tmp_path / "netns", "c") as path:
        yield path


def network_list(tmp_path: Path, version: str = "1.0.0", subnet: str = "10.55.0.0/24") -> dict[str, Any]:
    ipam = {"type": "host-local", "dataDir": str(tmp_path / "leases"), "ranges": [[{"subnet": subnet}]]}
    bridge = {"type": "bridge", "bridge": "exec0", "isDefaultGateway": True, "ipMasq": True, "ipam": ipam}
    return {
        "cniVersion": version,
        "name": "executed",
        "plugins": [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}],
    }


def leases(tmp_path: Path) -> list[str]:
    directory = tmp_path / "leases/executed"
    return sorted(p.name for p in directory.iterdir() if p.name[0].isdigit()) if directory.is_dir() else []


@pytest.mark.parametrize(
    "version", [*(pytest.param(old, marks=pytest.mark.slow) for old in ("0.3.1", "0.4.0")), "1.0.0"]
)
def test_ours_answer_as_debians_do(tmp_path: Path, ours: Path, netns: str, version: str) -> None:
    """The same chain, each of the two after the other: the documents have the same keys and the same values but for names."""
    answers = []
    for path in (DEBIAN, ours):
        chain = Chain(
            network_list(tmp_path, version),
            [path],
            portMappings=[{"hostPort": 18081, "containerPort": 80, "protocol": "tcp"}],
        )
        result = chain.add(netns=netns)
        if version != "0.3.1" and path is ours:  # Debian's portmap looks for IPv6, which is not asked for
            chain.each("CHECK", result, netns=netns)
        chain.each("DEL", result, netns=netns)
        chain.each("DEL", result, netns=netns)
        assert leases(tmp_path) == []
        answers.append(result)
    debian, own = answers
    assert debian.keys() == own.keys()
    assert own["cniVersion"] == version
    assert [sorted(each) for each in own["interfaces"]] == [sorted(each) for each in debian["interfaces"]]
    for theirs, mine in zip(debian["ips"], own["ips"], strict=True):
        assert ipaddress.ip_interface(mine["address"]).network == ipaddress.ip_interface(theirs["address"]).network
        assert {**mine, "address": ""} == {**theirs, "address": ""}
    assert own["routes"] == debian["routes"]


@pytest.mark.parametrize("mine", [("host-local",), ("bridge",), ("portmap",), ("bridge", "host-local")])
def test_chains_of_both(tmp_path: Path, netns: str, mine: tuple[str, ...]) -> None:
    """Debian's bridge delegates to our host-local, ours to Debian's; port maps of one on the other's links."""
    path = [linked(tmp_path / "bin", *mine), DEBIAN]
    chain = Chain(
        network_list(tmp_path), path, portMappings=[{"hostPort": 18082, "containerPort": 80, "protocol": "tcp"}]
    )
    result = chain.add(netns=netns)
    assert len(leases(tmp_path)) == 1
    if "portmap" in mine:  # Debian's own looks for IPv6, which is not asked for
        chain.each("CHECK", result, netns=netns)
    gateway = result["ips"][0]["gateway"]
    reached = subprocess.run(
        ["nsenter", f"--net={netns}", "busybox", "ping", "-c1", "-W5", gateway],
        capture_output=True,
        text=True,
        check=False,
    )
    assert reached.returncode == 0, reached.stdout
    chain.each("DEL", result, netns=netns)
    assert leases(tmp_path) == []


def test_versions_and_the_name(tmp_path: Path) -> None:
    answer = execute("imod-cni", "VERSION", {"cniVersion": "1.0.0"}, [IMOD_CNI.parent], CNI_PLUGIN="bridge")
    assert answer.printed == {"cniVersion": "1.1.0", "supportedVersions": ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]}
    told = subprocess.run([linked(tmp_path / "bin", "bridge") / "bridge"], capture_output=True, text=True, check=True)
    assert "CNI bridge of intermodal" in told.stderr
    plugin = {"cniVersion": "1.0.0", "name": "n", "type": "static", "ipam": {"addresses": [{"address": "10.1.1.1/24"}]}}
    named = execute("imod-cni", "ADD", plugin, [IMOD_CNI.parent], netns="/proc/self/ns/net", CNI_PLUGIN="static")
    assert named.printed["ips"] == [{"address": "10.1.1.1/24"}]


CONFIG = {"cniVersion": "1.0.0", "name": "n", "type": "bridge"}
BAD: list[tuple[str, Any, dict[str, str], int]] = [
    ("not JSON", "{", {}, 6),
    ("no object", "[]", {}, 6),
    ("version", {**CONFIG, "cniVersion": "7.0.0"}, {}, 1),
    ("no version", {"name": "n", "type": "bridge"}, {}, 1),
    ("verb", CONFIG, {"verb": "DANCE"}, 4),
    ("no container", CONFIG, {"container": ""}, 4),
    ("bad container", CONFIG, {"container": "a/b"}, 4),
    ("no interface", CONFIG, {"interface": ""}, 4),
    ("no namespace", CONFIG, {"netns": "/nowhere"}, 3),
    ("args", CONFIG, {"CNI_ARGS": "oops"}, 4),
    ("name", {**CONFIG, "name": "a b"}, {}, 7),
    ("type of a value", {**CONFIG, "mtu": "big"}, {}, 7),
    ("not to be had", {**CONFIG, "macspoofchk": True}, {}, 2),
    ("no manager", {**CONFIG, "ipam": {"type": "nobody"}}, {}, 11),
    ("previous result", {**CONFIG, "prevResult": {"ips": [{"address": "x"}]}}, {}, 6),
    ("check too early", {**CONFIG, "cniVersion": "0.3.1"}, {"verb": "CHECK"}, 1),
    ("gc too early", CONFIG, {"verb": "GC"}, 1),
]


@pytest.mark.parametrize(("config", "call", "code"), [bad[1:] for bad in BAD], ids=[bad[0] for bad in BAD])
def test_errors_have_their_numbers(ours: Path, netns: str, config: Any, call: dict[str, str], code: int) -> None:
    place = {"netns": netns, **call}
    verb = place.pop("verb", "ADD")
    done = execute("bridge", verb, config, [ours], **place)
    assert (done.status, done.code) == (1, code), done
    assert done.printed["msg"]
    assert "Traceback" not in done.stderr


def test_status_and_gc(tmp_path: Path, ours: Path) -> None:
    ipam = {
        "type": "host-local",
        "dataDir": str(tmp_path / "leases"),
        "subnet": "10.56.0.0/29",
        "rangeStart": "10.56.0.2",
        "rangeEnd": "10.56.0.3",
    }
    config = {"cniVersion": "1.1.0", "name": "executed", "type": "host-local", "ipam": ipam}
    for container in ("one", "two"):
        assert execute("host-local", "STATUS", config, [ours]).status == 0
        assert execute("host-local", "ADD", config, [ours], container=container, netns="/any").status == 0
    full = execute("host-local", "STATUS", config, [ours])
    assert (full.status, full.code) == (1, 50)
    exhausted = execute("host-local", "ADD", config, [ours], container="three", netns="/any")
    assert (exhausted.status, exhausted.code) == (1, 102)
    valid = {"cni.dev/valid-attachments": [{"containerID": "two", "ifname": "eth0"}]}
    assert execute("host-local", "GC", config | valid, [ours]).status == 0
    assert leases(tmp_path) == ["10.56.0.3"]


@pytest.mark.slow
def test_one_directory_of_leases_for_both(tmp_path: Path, ours: Path) -> None:
    """Ours and Debian's host-local at once, from many processes: no address twice, none lost, all given back."""
    ipam = {"type": "host-local", "dataDir": str(tmp_path / "leases"), "subnet": "10.57.0.0/26"}
    config = {"cniVersion": "1.0.0", "name": "executed", "type": "host-local", "ipam": ipam}
    start = threading.Barrier(8)

    def some(worker: int) -> list[str]:
        start.wait()
        path = ours if worker % 2 else DEBIAN
        found = []
        for number in range(5):
            done = execute("host-local", "ADD", config, [path], container=f"w{worker}-{number}", netns="/any")
            assert done.status == 0, done
            found.append(done.printed["ips"][0]["address"])
        return found

    with ThreadPoolExecutor(8) as pool:
        given = [address for found in pool.map(some, range(8)) for address in found]
        assert len(given) == len(set(given)) == 40
        assert leases(tmp_path) == sorted(address.partition("/")[0] for address in given)
        # Each gives back what the other one gave.
        ends = [(f"w{w}-{n}", DEBIAN if w % 2 else ours) for w in range(8) for n in range(5)]
        done = pool.map(lambda end: execute("host-local", "DEL", config, [end[1]], container=end[0]), ends)
        assert [each.status for each in done] == [0] * 40
    assert leases(tmp_path) == []
