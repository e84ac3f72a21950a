"""The conformance kit of networks: subclass `NetworkKit`, give it a factory, run pytest.

    class TestMine(NetworkKit):
        capabilities = frozenset({"netns"})        # as the plugin declares them; the others' tests are skipped

        @pytest.fixture
        def factory(self):
            return lambda root: MyNetwork(root)

A second call of the factory with one directory stands for a restart. With `netns` the kit makes the namespaces, which needs
root. A test's name says which rule of `intermodal_core.contracts.networks` it holds to: `test_n1_...` is of [N1].
"""

# ruff: noqa: D102 - what a test holds to is the contract's rule that its name gives

from __future__ import annotations

import ipaddress
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from intermodal_snapshots.mounts import mounts_below, unmount_all

from intermodal_core.contracts.networks import Attachment, AttachResult, Network
from intermodal_core.errors import FailedPrecondition, IntermodalError
from intermodal_core.syscalls import CLONE_NEWNET, MS_BIND, mount, setns, unshare
from intermodal_core.testing.kit import Kit

__all__ = ["Attach", "Factory", "NetworkKit"]

#: Opens the network of a directory, which may be new or have been used before.
Factory = Callable[[Path], Network]
#: Makes a container's attachment, and its namespace where the network wants one.
Attach = Callable[[str], Attachment]


class NetworkKit(Kit):
    """The rules of the contract, each a test or several."""

    contracts = (Network,)
    instances = ("network",)
    #: What `attach` may answer.
    modes: frozenset[str] = frozenset({"host", "new", "path"})

    @pytest.fixture
    def factory(self) -> Factory:
        """Opens a network; to be overridden."""
        raise NotImplementedError("define the fixture `factory`")

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        """The network's directory."""
        return tmp_path / "root"

    @pytest.fixture
    def network(self, factory: Factory, root: Path) -> Network:
        """A new one."""
        return factory(root)

    @pytest.fixture
    def attachment(self, tmp_path: Path) -> Iterator[Attach]:
        """Attachments of containers; their namespaces go at the end, if they did not before."""
        directory = tmp_path / "namespaces"
        directory.mkdir()

        def make(name: str) -> Attachment:
            netns = ""
            if "netns" in self.capabilities:
                netns = str(directory / name)
                _make_namespace(netns)
            return Attachment(f"kit/{name}", "kit", name, "net", netns)

        yield make
        for path in directory.iterdir():
            unmount_all(path)

    @pytest.fixture
    def inventory(self, root: Path) -> Callable[[], object]:
        """What a network could leave on the machine: links, mounts, named namespaces, its own files."""

        def look() -> object:
            links = {name for _, name in socket.if_nameindex()}
            names = set(os.listdir("/run/netns")) if os.path.isdir("/run/netns") else set()
            return links, names, mounts_below(root), {path for path in root.rglob("*") if not path.is_dir()}

        return look

    # -- N1: attach ---------------------------------------------------------------------------------------------------

    def test_n1_what_attach_answers(self, network: Network, attachment: Attach) -> None:
        one = attachment("one")
        answer = network.attach(one)
        try:
            assert isinstance(answer, AttachResult)
            assert answer.mode in self.modes
            assert bool(answer.netns) == (answer.mode == "path")
            json.loads(answer.result)
            for address in answer.addresses:
                ipaddress.ip_interface(address)
            if "netns" in self.capabilities:
                assert (answer.mode, answer.netns) == ("path", one.netns)
        finally:
            network.detach(one, answer.result)

    def test_n1_each_has_its_own(self, network: Network, attachment: Attach) -> None:
        made = [(one, network.attach(one)) for one in map(attachment, ("one", "two", "three"))]
        addresses = [address for _, answer in made for address in answer.addresses]
        assert len(set(addresses)) == len(addresses)
        for one, answer in made:
            network.check(one, answer.result)
        for one, answer in made:
            network.detach(one, answer.result)

    def test_n1_nothing_remains_of_an_error(self, network: Network, attachment: Attach, inventory: Any) -> None:
        self.declares("netns")
        _attach_and_detach(network, attachment("first"))
        before = inventory()
        bad = attachment("bad")
        unmount_all(bad.netns)
        with pytest.raises(IntermodalError):
            network.attach(bad)
        os.unlink(bad.netns)
        with pytest.raises(IntermodalError):
            network.attach(bad)
        assert inventory() == before

    # -- N2: detach ---------------------------------------------------------------------------------------------------

    def test_n2_detach_undoes_attach(self, network: Network, attachment: Attach, inventory: Any) -> None:
        _attach_and_detach(network, attachment("first"))  # what is made once, at the first container, is no leftover
        one = attachment("one")
        before, inside = inventory(), _links(one)
        answer = network.attach(one)
        for _ in range(2):
            network.detach(one, answer.result)
            assert inventory() == before
            assert _links(one) == inside
        _attach_and_detach(network, one)

    def test_n2_what_never_was(self, network: Network, attachment: Attach, inventory: Any) -> None:
        """Neither attached, nor does the daemon know a result."""
        _attach_and_detach(network, attachment("first"))
        before = inventory()
        one = attachment("one")
        network.detach(one, b"{}")
        network.attach(one)
        network.detach(one, b"{}")  # the daemon died before it could record the result
        assert inventory() == before

    def test_n2_the_namespace_is_gone(self, network: Network, attachment: Attach, inventory: Any) -> None:
        self.declares("netns")
        _attach_and_detach(network, attachment("first"))
        before = inventory()
        one = attachment("one")
        answer = network.attach(one)
        unmount_all(one.netns)
        os.unlink(one.netns)
        for _ in range(2):
            network.detach(one, answer.result)
            assert inventory() == before

    def test_n2_after_a_restart(
        self, network: Network, factory: Factory, root: Path, attachment: Attach, inventory: Any
    ) -> None:
        _attach_and_detach(network, attachment("first"))
        before = inventory()
        one = attachment("one")
        answer = network.attach(one)
        again = factory(root)
        again.check(one, answer.result)
        again.detach(one, answer.result)
        assert inventory() == before

    # -- N3: check ----------------------------------------------------------------------------------------------------

    def test_n3_check(self, network: Network, attachment: Attach) -> None:
        one, two = attachment("one"), attachment("two")
        answers = network.attach(one), network.attach(two)
        network.check(one, answers[0].result)
        network.detach(two, answers[1].result)
        network.check(one, answers[0].result)
        network.detach(one, answers[0].result)

    @pytest.mark.parametrize("how", ["detached", "lost"])
    def test_n3_what_is_gone(self, network: Network, attachment: Attach, how: str) -> None:
        self.declares("netns")
        one = attachment("one")
        answer = network.attach(one)
        if how == "detached":
            network.detach(one, answer.result)
        else:
            unmount_all(one.netns)
            _make_namespace(one.netns)  # another one, with nothing in it
        with pytest.raises(FailedPrecondition):
            network.check(one, answer.result)
        network.detach(one, answer.result)

    # -- N4: gc -------------------------------------------------------------------------------------------------------

    def test_n4_gc_frees_the_dead_and_spares_the_living(
        self, network: Network, attachment: Attach, inventory: Any
    ) -> None:
        _attach_and_detach(network, attachment("first"))
        before = inventory()
        one = attachment("one")
        answer = network.attach(one)
        with_one = inventory()
        for number in range(3):
            dead = attachment(f"dead-{number}")
            network.attach(dead)
            if dead.netns:
                unmount_all(dead.netns)
                os.unlink(dead.netns)
        for _ in range(2):
            network.gc((one,))
            assert inventory() == with_one
            network.check(one, answer.result)
        network.detach(one, answer.result)
        network.gc(())
        assert inventory() == before


def _attach_and_detach(network: Network, one: Attachment) -> None:
    network.detach(one, network.attach(one).result)


def _make_namespace(path: str) -> None:
    """A new network namespace, kept by a mount at `path`."""
    Path(path).touch()

    def make() -> None:
        unshare(CLONE_NEWNET)
        mount("/proc/thread-self/ns/net", path, "", MS_BIND)

    _in_thread(make)


def _links(one: Attachment) -> set[str]:
    """The links in an attachment's namespace; none where it has no namespace."""
    if not one.netns:
        return set()
    found: set[str] = set()

    def look() -> None:
        with open(one.netns, "rb") as file:
            setns(file.fileno(), CLONE_NEWNET)
        found.update(name for _, name in socket.if_nameindex())

    _in_thread(look)
    return found


def _in_thread(work: Callable[[], None]) -> None:
    """Run in a thread of its own, which leaves the other threads' namespaces as they are."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    if raised:
        raise raised[0]
