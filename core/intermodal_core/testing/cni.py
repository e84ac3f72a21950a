"""The conformance kit of CNI types: subclass `CniKit`, say how yours is configured, run pytest.

    class TestMine(CniKit):
        keeps = True                                # whether `check` can miss something: links, leases, rules

        @pytest.fixture
        def instance(self):
            return Mine()

        @pytest.fixture
        def config(self, tmp_path):
            return {"type": "mine", "ipam": {"type": "host-local", "dataDir": str(tmp_path), "subnet": "192.0.2.0/24"}}

It needs root, and works in the process's own network namespace: give the tests one of their own. Types that yours delegates to,
and those of `chained`, are found by their entry points. A test's name says which rule of
`intermodal_core.contracts.cni` it holds to: `test_p1_...` is of [P1].
"""

# ruff: noqa: D102 - what a test holds to is the contract's rule that its name gives

from __future__ import annotations

import ipaddress
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from intermodal_cni.executable import load_type
from intermodal_cni.executables import Executables
from intermodal_cni.host import TypesHost
from intermodal_netlink import namespaces
from intermodal_netlink.namespaces import Local
from intermodal_netlink.route import RouteSocket, kind

from intermodal_core.child import Completed
from intermodal_core.contracts.cni import Call, CniType, Host, Result, ValidAttachment
from intermodal_core.errors import AlreadyExists, FailedPrecondition, IntermodalError, InvalidArgument, NotFound
from intermodal_core.testing.kit import Kit

__all__ = ["CniKit", "Make"]

#: Makes the call for a container, with a namespace of its own in which the chain before has been run.
Make = Callable[[str], Call]


class CniKit(Kit):
    """The rules of the contract, each a test or several."""

    contracts = (CniType,)
    instances = ("instance",)
    #: Whether there is something that `check` can miss.
    keeps = True
    #: Whether it makes a link by the interface's name.
    links = False
    #: Whether it needs the container's namespace.
    inside = True
    #: Configurations of the types that run before it.
    chained: tuple[dict[str, Any], ...] = ()
    #: Keys, laid over the configuration, with which no call may succeed.
    wrong: tuple[dict[str, Any], ...] = ()

    @pytest.fixture
    def instance(self) -> CniType:
        """The type; to be overridden."""
        raise NotImplementedError("define the fixture `instance`")

    @pytest.fixture
    def config(self) -> dict[str, Any]:
        """Its configuration, without name and version; to be overridden."""
        raise NotImplementedError("define the fixture `config`")

    def vary(self, config: dict[str, Any], container: str) -> dict[str, Any]:
        """The configuration for one of several containers, where that differs (a port, an address)."""
        return config

    @pytest.fixture
    def host(self) -> Host:
        """Who runs types here: in this process, executables not at all."""

        def refused(*_: object, **__: object) -> Completed:
            raise AssertionError("the kit executes nothing")

        return TypesHost(load_type, Local(), Executables((), refused))

    @pytest.fixture
    def make(self, config: dict[str, Any], tmp_path: Path, host: Host) -> Iterator[Make]:
        """Calls for containers; their namespaces, and what the chain before made, go at the end."""
        directory = tmp_path / "namespaces"
        directory.mkdir()
        before: list[tuple[dict[str, Any], Call]] = []

        def make(container: str) -> Call:
            path = str(directory / container)
            Local().make(path)
            previous: Result | None = None
            for each in self.chained:
                own = {**each, "name": "kit", "cniVersion": "1.1.0"}
                call = Call(own, container, path, "eth0", previous=previous)
                previous = host.delegate(each["type"], "ADD", call)
                before.append((each, call))
            whole = {**self.vary(config, container), "name": "kit", "cniVersion": "1.1.0"}
            return Call(whole, container, path, "eth0", previous=previous)

        yield make
        for each, call in reversed(before):
            host.delegate(each["type"], "DEL", call)
        for path in directory.iterdir():
            namespaces.remove(str(path))

    @pytest.fixture
    def inventory(self, tmp_path: Path) -> Callable[[], object]:
        """What a type could leave on the machine: links, addresses, rules, files below the test's directory."""

        def look() -> object:
            with RouteSocket(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)) as route:
                links = {(link.name, link.index) for link in route.links()}
                addresses = {(each.index, each.interface) for each in route.addresses()}
            rules = ""
            if nft := shutil.which("nft"):
                rules = subprocess.run(
                    [nft, "-s", "list", "ruleset"], capture_output=True, text=True, check=True
                ).stdout
            # A lock and a note of what was given last are no leftover.
            files = {
                path
                for path in tmp_path.rglob("*")
                if path.is_file() and path.parent.name != "namespaces" and not path.name.startswith(("lock", "last_"))
            }
            return links, {each for each in addresses if not each[1].is_link_local}, rules, files

        return look

    def _settled(self, instance: CniType, make: Make, host: Host) -> None:
        """What is made once, at the first container, is no leftover."""
        call = make("first")
        instance.add(call, host)
        instance.delete(call, host)

    # -- P1: the configuration ----------------------------------------------------------------------------------------

    def test_p1_a_wrong_configuration(self, instance: CniType, make: Make, host: Host, inventory: Any) -> None:
        self._settled(instance, make, host)
        if not self.wrong:
            pytest.skip("no wrong configuration is named")
        one = make("one")
        before = inventory()
        for keys in self.wrong:
            bad = msgspec.structs.replace(one, config={**one.config, **keys})
            with pytest.raises(InvalidArgument):
                instance.add(bad, host)
            assert inventory() == before, keys

    # -- P2: add ------------------------------------------------------------------------------------------------------

    def test_p2_the_result(self, instance: CniType, make: Make, host: Host) -> None:
        one = make("one")
        result = instance.add(one, host)
        try:
            assert isinstance(result, Result)
            for ip in result.ips:
                ipaddress.ip_interface(ip.address)
                assert ip.interface is None or ip.interface < len(result.interfaces)
            if one.previous is not None:
                assert len(result.interfaces) >= len(one.previous.interfaces)
                assert set(result.ips) >= set(one.previous.ips)
            if self.links:
                mine = [each for each in result.interfaces if each.sandbox == one.netns]
                assert [each.name for each in mine] == [one.interface]
        finally:
            instance.delete(_after(one, result), host)

    def test_p2_each_has_its_own(self, instance: CniType, make: Make, host: Host) -> None:
        calls = [make(name) for name in ("one", "two", "three")]
        results = [instance.add(call, host) for call in calls]
        addresses = [ip.address for result in results for ip in result.ips if not _loopback(ip.address)]
        assert len(set(addresses)) == len(addresses)
        for call, result in zip(calls, results, strict=True):
            instance.check(_after(call, result), host)
        for call, result in zip(calls, results, strict=True):
            instance.delete(_after(call, result), host)

    def test_p2_nothing_remains_of_an_error(self, instance: CniType, make: Make, host: Host, inventory: Any) -> None:
        if not self.inside:
            pytest.skip("it does not need the namespace")
        self._settled(instance, make, host)
        one = make("one")
        before = inventory()
        with pytest.raises(NotFound):
            instance.add(msgspec.structs.replace(one, netns=one.netns + "-gone"), host)
        assert inventory() == before

    def test_p2_a_name_that_is_taken(self, instance: CniType, make: Make, host: Host, inventory: Any) -> None:
        if not self.links:
            pytest.skip("it makes no link of that name")
        self._settled(instance, make, host)
        one = make("one")
        before = inventory()
        with RouteSocket(host.socket(one.netns, socket.AF_NETLINK, socket.SOCK_RAW, 0)) as links:
            links.add_link(one.interface, kind("bridge"))
        with pytest.raises(AlreadyExists):
            instance.add(one, host)
        assert inventory() == before

    # -- P3: delete ---------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("known", [True, False])
    def test_p3_delete_undoes_add(self, instance: CniType, make: Make, host: Host, inventory: Any, known: bool) -> None:
        self._settled(instance, make, host)
        one = make("one")
        before, within = inventory(), _inside(one, host)
        result = instance.add(one, host)
        for _ in range(2):
            instance.delete(_after(one, result) if known else msgspec.structs.replace(one, previous=None), host)
            assert inventory() == before
            assert _inside(one, host) == within
        instance.delete(_after(one, instance.add(one, host)), host)

    def test_p3_what_never_was(self, instance: CniType, make: Make, host: Host, inventory: Any) -> None:
        self._settled(instance, make, host)
        one = make("one")
        before = inventory()
        instance.delete(msgspec.structs.replace(one, previous=None), host)
        assert inventory() == before

    @pytest.mark.parametrize("named", [True, False])
    def test_p3_the_namespace_is_gone(
        self, instance: CniType, make: Make, host: Host, inventory: Any, named: bool
    ) -> None:
        self._settled(instance, make, host)
        one = make("one")
        before = inventory() if not self.chained else None
        result = instance.add(one, host)
        namespaces.remove(one.netns)
        for _ in range(2):
            instance.delete(msgspec.structs.replace(_after(one, result), netns=one.netns if named else ""), host)
        if before is not None:
            assert inventory() == before

    # -- P4: check ----------------------------------------------------------------------------------------------------

    def test_p4_check(self, instance: CniType, make: Make, host: Host) -> None:
        one, two = make("one"), make("two")
        results = instance.add(one, host), instance.add(two, host)
        instance.check(_after(one, results[0]), host)
        instance.delete(_after(two, results[1]), host)
        instance.check(_after(one, results[0]), host)
        instance.delete(_after(one, results[0]), host)
        if self.keeps:
            with pytest.raises(FailedPrecondition):
                instance.check(_after(one, results[0]), host)

    # -- P5: status ---------------------------------------------------------------------------------------------------

    def test_p5_status(self, instance: CniType, make: Make, host: Host, inventory: Any) -> None:
        self._settled(instance, make, host)
        call = Call(make("one").config)
        before = inventory()
        instance.status(call, host)
        assert inventory() == before

    def test_p5_that_none_can_succeed(self, instance: CniType, make: Make, host: Host) -> None:
        """An address manager that cannot be had is told of."""
        one = make("one")
        manager = one.config.get("ipam", {}).get("type")
        if manager in (None, one.config["type"]):
            pytest.skip("it asks no address manager")
        broken = {**one.config, "ipam": {**one.config["ipam"], "type": "no-such-manager"}}
        with pytest.raises(IntermodalError):
            instance.status(Call(broken), host)

    # -- P6: gc -------------------------------------------------------------------------------------------------------

    def test_p6_gc_frees_the_dead_and_spares_the_living(
        self, instance: CniType, make: Make, host: Host, inventory: Any
    ) -> None:
        self._settled(instance, make, host)
        one = make("one")
        dead = [make(f"dead-{number}") for number in range(2)]
        others = [msgspec.structs.replace(call, config={**call.config, "name": "another"}) for call in (make("other"),)]
        result = instance.add(one, host)
        others_results = [instance.add(other, host) for other in others]
        before = inventory()
        for call in dead:
            instance.add(call, host)
        if not self.chained:
            for call in dead:
                namespaces.remove(call.netns)
        valid = (ValidAttachment("one", "eth0"),)
        for _ in range(2):
            instance.gc(Call(one.config, valid=valid), host)
        assert _without_links(inventory()) == _without_links(before)
        for call in dead:  # the kernel takes a dead namespace's links away some time later
            instance.delete(call, host)
        assert inventory() == before
        instance.check(_after(one, result), host)
        for other, its in zip(others, others_results, strict=True):
            instance.check(_after(other, its), host)
            instance.delete(_after(other, its), host)
        instance.delete(_after(one, result), host)


def _after(call: Call, result: Result) -> Call:
    return msgspec.structs.replace(call, previous=result)


def _without_links(inventory: Any) -> Any:
    return inventory[2:]


def _loopback(address: str) -> bool:
    return ipaddress.ip_interface(address).ip.is_loopback


def _inside(call: Call, host: Host) -> set[tuple[str, int, int, str]]:
    """The links of the container's namespace, and how they are."""
    with RouteSocket(host.socket(call.netns, socket.AF_NETLINK, socket.SOCK_RAW, 0)) as links:
        return {(link.name, link.flags & 1, link.mtu, link.mac) for link in links.links() if link.name != "lo"}
