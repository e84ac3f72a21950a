"""CNI types with one fault each, which the kit must find: run by test_kits.py, not collected by itself.

The one without a fault is small but real: a bridge in the container's namespace, and a file a lease of an address.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from intermodal_cni.types import ask_ipam, inside, kernel, namespace, read, refuse_taken
from intermodal_core.contracts.cni import Call, CniType, Host, Interface, IpConfig, Result
from intermodal_core.errors import FailedPrecondition, InvalidArgument, NotFound
from intermodal_core.testing.cni import CniKit
from intermodal_netlink.route import RouteSocket, kind

from tests.harness.links import own_network


class _Config(msgspec.Struct):
    leases: str
    subnet: int = 0


class Bridges:
    """Implements the contract."""

    def add(self, call: Call, host: Host) -> Result:
        config = self.configuration(call)
        address = self.lease(config, call)
        try:
            with namespace(call), inside(call, host) as links, kernel("make a bridge"):
                self.refuse(call, links)
                links.add_link(call.interface, kind("bridge"), up=True)
                link = links.link(call.interface)
        except BaseException:
            self.forget(config, call)
            raise
        return Result((Interface(call.interface, link.mac, sandbox=call.netns),), (IpConfig(address, interface=0),))

    def delete(self, call: Call, host: Host) -> None:
        try:
            with inside(call, host) as links:
                links.delete_link(call.interface)
        except NotFound:
            pass
        self.free(call)

    def check(self, call: Call, host: Host) -> None:
        with inside(call, host) as links:
            if links.find(call.interface) is None:
                raise FailedPrecondition("the link is gone")

    def status(self, call: Call, host: Host) -> None:
        ask_ipam(call, host, "STATUS")

    def gc(self, call: Call, host: Host) -> None:
        valid = {self.name(call.config["name"], each.container) for each in call.valid}
        for path in self.mine(call):
            if path.name not in valid:
                path.unlink()

    def configuration(self, call: Call) -> _Config:
        config = read(call, _Config)
        if not 0 <= config.subnet < 256:
            raise InvalidArgument(f"subnet {config.subnet} is none")
        return config

    def refuse(self, call: Call, links: RouteSocket) -> None:
        refuse_taken(call, links)

    def lease(self, config: _Config, call: Call) -> str:
        directory = Path(config.leases)
        directory.mkdir(exist_ok=True)
        taken = {path.read_text() for path in directory.iterdir()}
        address = self.free_address(config, taken)
        (directory / self.name(call.config["name"], call.container)).write_text(address)
        return address

    def free_address(self, config: _Config, taken: set[str]) -> str:
        return next(one for n in range(1, 255) if (one := f"192.0.{config.subnet}.{n}/24") not in taken)

    def forget(self, config: _Config, call: Call) -> None:
        self.free(call)

    def free(self, call: Call) -> None:
        self.path(call).unlink(missing_ok=True)

    def path(self, call: Call) -> Path:
        return Path(call.config["leases"]) / self.name(call.config["name"], call.container)

    def mine(self, call: Call) -> list[Path]:
        return list(Path(call.config["leases"]).glob(f"{call.config['name']} *"))

    def name(self, network: str, container: str) -> str:
        return f"{network} {container}"


class _Kit(CniKit):
    links = True
    wrong = ({"subnet": 256}, {"subnet": "none"})
    Mutant: type[CniType] = Bridges

    @pytest.fixture(autouse=True)
    def own_namespace(self) -> Iterator[None]:
        with own_network():
            yield

    @pytest.fixture
    def instance(self) -> CniType:
        return self.Mutant()

    @pytest.fixture
    def config(self, tmp_path: Path) -> dict[str, Any]:
        return {"type": "bridges", "leases": str(tmp_path / "leases"), "ipam": {"type": "static"}}


class TestCorrect(_Kit):
    """No fault: nothing may fail."""


class TestP1(_Kit):
    class Mutant(Bridges):
        """Takes any configuration."""

        def configuration(self, call: Call) -> _Config:
            return _Config(call.config["leases"])


class TestP1Late(_Kit):
    class Mutant(Bridges):
        """Looks at the configuration when all is made."""

        def configuration(self, call: Call) -> _Config:
            (Path(call.config["leases"]) / "begun").touch()
            return super().configuration(call)


class TestP2(_Kit):
    class Mutant(Bridges):
        """Keeps the lease where making the link fails."""

        def forget(self, config: _Config, call: Call) -> None:
            return


class TestP2Taken(_Kit):
    class Mutant(Bridges):
        """Takes over a link that it did not make."""

        def refuse(self, call: Call, links: RouteSocket) -> None:
            links.delete_link(call.interface)


class TestP2Shared(_Kit):
    class Mutant(Bridges):
        """Gives everybody the same address."""

        def free_address(self, config: _Config, taken: set[str]) -> str:
            return "192.0.2.1/24"


class TestP2Result(_Kit):
    class Mutant(Bridges):
        """Does not tell of its link."""

        def add(self, call: Call, host: Host) -> Result:
            return msgspec.structs.replace(super().add(call, host), interfaces=())


class TestP3(_Kit):
    class Mutant(Bridges):
        """Undoes only what it is told of."""

        def delete(self, call: Call, host: Host) -> None:
            if call.previous is not None:
                super().delete(call, host)


class TestP3Gone(_Kit):
    class Mutant(Bridges):
        """Cannot do without the namespace."""

        def delete(self, call: Call, host: Host) -> None:
            with inside(call, host) as links:
                links.delete_link(call.interface)
            self.free(call)


class TestP3Once(_Kit):
    class Mutant(Bridges):
        """Deletes once only."""

        def free(self, call: Call) -> None:
            self.path(call).unlink()


class TestP3Link(_Kit):
    class Mutant(Bridges):
        """Leaves the link."""

        def delete(self, call: Call, host: Host) -> None:
            self.free(call)


class TestP4(_Kit):
    class Mutant(Bridges):
        """Finds everything well."""

        def check(self, call: Call, host: Host) -> None:
            return


class TestP4Others(_Kit):
    class Mutant(Bridges):
        """Looks at what another container has."""

        def check(self, call: Call, host: Host) -> None:
            if len(self.mine(call)) < 2:
                raise FailedPrecondition("a lease is gone")
            super().check(call, host)


class TestP5(_Kit):
    class Mutant(Bridges):
        """Is always well."""

        def status(self, call: Call, host: Host) -> None:
            return


class TestP5Makes(_Kit):
    class Mutant(Bridges):
        """Tries it out."""

        def status(self, call: Call, host: Host) -> None:
            with RouteSocket(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)) as links:
                links.add_link("tried", kind("bridge"))


class TestP6(_Kit):
    class Mutant(Bridges):
        """Frees nothing."""

        def gc(self, call: Call, host: Host) -> None:
            return


class TestP6Greedy(_Kit):
    class Mutant(Bridges):
        """Frees the living."""

        def gc(self, call: Call, host: Host) -> None:
            for path in self.mine(call):
                path.unlink()

        def check(self, call: Call, host: Host) -> None:
            if not self.path(call).exists():
                raise FailedPrecondition("the lease is gone")
            super().check(call, host)


class TestP6Others(_Kit):
    class Mutant(Bridges):
        """Frees what other networks hold."""

        def mine(self, call: Call) -> list[Path]:
            return list(Path(call.config["leases"]).iterdir())

        def check(self, call: Call, host: Host) -> None:
            if not self.path(call).exists():
                raise FailedPrecondition("the lease is gone")
            super().check(call, host)
