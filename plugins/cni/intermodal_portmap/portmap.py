"""Ports of the host that lead to the container."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterable
from typing import Any

import msgspec
from intermodal_cni.owned import Owned
from intermodal_cni.types import kernel, owner, read
from intermodal_core.contracts.cni import Call, Host, Result
from intermodal_core.errors import FailedPrecondition, InvalidArgument, Unimplemented
from intermodal_netlink.nftables import Element, NftSocket, link_name, pack

from intermodal_portmap.table import ANY, HOMES, HOSTS, PORTMAP

__all__ = ["PortMap"]

IP = ipaddress.IPv4Address | ipaddress.IPv6Address

_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_OWNED = Owned(PORTMAP)


class _Mapping(
    msgspec.Struct, rename={"host_port": "hostPort", "container_port": "containerPort", "host_ip": "hostIP"}
):
    host_port: int
    container_port: int
    protocol: str = "tcp"
    host_ip: str = ""


class _RuntimeConfig(msgspec.Struct, rename="camel"):
    port_mappings: tuple[_Mapping, ...] = ()


class _Config(msgspec.Struct, rename="camel"):
    snat: bool = True
    masq_all: bool = False
    conditions_v4: Any = msgspec.field(default=None, name="conditionsV4")
    conditions_v6: Any = msgspec.field(default=None, name="conditionsV6")
    runtime_config: _RuntimeConfig = msgspec.field(default_factory=_RuntimeConfig)


class PortMap:
    """Implements `intermodal_core.contracts.cni.CniType`. One transaction for all ports of a container; none for none."""

    def add(self, call: Call, host: Host) -> Result:
        """Map the ports that the runtime asks for."""
        config, mappings = _read(call)
        previous = _previous(call)
        if mappings:
            elements = list(_elements(call, previous, mappings, config.snat))
            for mapping in mappings:
                _refuse_listening(mapping, host)
            if config.snat and (link := _home(previous)):
                host.sysctl("", f"ipv4/conf/{link}/route_localnet", "1")
            try:
                with kernel("map ports"), NftSocket.open() as nft:
                    nft.change_elements(PORTMAP, elements)
            except Exception as error:
                if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EEXIST:
                    raise _taken(elements) from error
                raise
        return previous

    def delete(self, call: Call, host: Host) -> None:
        """Unmap them."""
        _OWNED.remove(call)

    def check(self, call: Call, host: Host) -> None:
        """Every port that was asked for is mapped."""
        config, mappings = _read(call)
        if mappings:
            there = {(each.set.name, each.key, each.data) for each in _OWNED.of(call)}
            for element in _elements(call, _previous(call), mappings, config.snat):
                if (element.set.name, element.key, element.data) not in there:
                    raise FailedPrecondition(f"{_words(element)} is not mapped to {call.container} any more")

    def status(self, call: Call, host: Host) -> None:
        """The kernel has nftables."""
        with kernel("ask for nftables"), NftSocket.open() as nft:
            nft.has(PORTMAP)

    def gc(self, call: Call, host: Host) -> None:
        """Unmap ports of the dead."""
        _OWNED.collect(call)


def _read(call: Call) -> tuple[_Config, tuple[_Mapping, ...]]:
    config = read(call, _Config)
    for key, asked in (("conditionsV4", config.conditions_v4), ("conditionsV6", config.conditions_v6)):
        if asked:
            raise Unimplemented(f"{key} are rules for iptables, which this port mapper does not use: take them out")
    if config.masq_all:
        raise Unimplemented("masqAll is not supported by this port mapper: take it out")
    # The specification's runtimes list ports that are only exposed with the host's port 0.
    mappings = tuple(each for each in config.runtime_config.port_mappings if each.host_port)
    for mapping in mappings:
        if mapping.protocol.lower() not in _PROTOCOLS:
            raise InvalidArgument(f"protocol {mapping.protocol!r} cannot be mapped: write tcp, udp or sctp")
        for port in (mapping.host_port, mapping.container_port):
            if not 0 < port < 65536:
                raise InvalidArgument(f"{port} is no port: write 1 to 65535")
        if mapping.host_ip:
            try:
                ipaddress.ip_address(mapping.host_ip)
            except ValueError as error:
                raise InvalidArgument(f"hostIP: {error}") from None
    return config, mappings


def _previous(call: Call) -> Result:
    if call.previous is None:
        raise InvalidArgument("portmap comes after the plugin that makes the container's link: it needs a prevResult")
    return call.previous


def _home(previous: Result) -> str:
    """The link of the host that the container is behind: the first that the chain made."""
    return next((each.name for each in previous.interfaces if not each.sandbox), "")


def _elements(call: Call, previous: Result, mappings: Iterable[_Mapping], snat: bool) -> Iterable[Element]:
    addresses = _container(previous)
    mine, home = owner(call), _home(previous)
    used: set[int] = set()
    for mapping in mappings:
        wanted = ipaddress.ip_address(mapping.host_ip) if mapping.host_ip else None
        families = [wanted.version] if wanted is not None else list(addresses)
        for version in families:
            if version not in addresses:
                raise InvalidArgument(f"hostIP {wanted}: the container has no address of IPv{version}")
            used.add(version)
            protocol = bytes((_PROTOCOLS[mapping.protocol.lower()],))
            key = (protocol, mapping.host_port.to_bytes(2, "big"))
            target = (addresses[version].packed, mapping.container_port.to_bytes(2, "big"))
            if wanted is None or wanted.is_unspecified:
                into = ANY[version]
                yield Element(into, pack(into.key, *key), pack(into.data, *target), mine)
            else:
                into = HOSTS[version]
                yield Element(into, pack(into.key, wanted.packed, *key), pack(into.data, *target), mine)
    if snat and home:
        for version in used:
            homes = HOMES[version]
            yield Element(homes, pack(homes.key, addresses[version].packed, link_name(home)), owner=mine)


def _container(previous: Result) -> dict[int, IP]:
    """The container's first address of each family."""
    found: dict[int, IP] = {}
    for ip in previous.ips:
        inside = ip.interface is None or not previous.interfaces or previous.interfaces[ip.interface].sandbox
        if inside:
            address = ipaddress.ip_interface(ip.address).ip
            found.setdefault(address.version, address)
    if not found:
        raise InvalidArgument("the container has no address to map ports to")
    return found


def _refuse_listening(mapping: _Mapping, host: Host) -> None:
    """A process of the host that listens on the port would never hear of its clients again."""
    kinds = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
    kind = kinds.get(mapping.protocol.lower())
    if kind is None:
        return
    where = mapping.host_ip or "0.0.0.0"
    family = socket.AF_INET6 if ":" in where else socket.AF_INET
    with host.socket("", family, kind) as probe:
        if kind == socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((where, mapping.host_port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise FailedPrecondition(
                    f"the host's port {mapping.host_port}/{mapping.protocol} is in use by a process: choose another"
                ) from None
            if error.errno == errno.EADDRNOTAVAIL:
                raise InvalidArgument(f"hostIP {where} is no address of this host") from None
            raise


def _taken(elements: Iterable[Element]) -> FailedPrecondition:
    with kernel("look at mapped ports"), NftSocket.open() as nft:
        for element in elements:
            held = nft.find(PORTMAP, element)
            if (held is not None and held.owner != element.owner) or (held is not None and element.data != held.data):
                container = held.owner.split(" ")[1] if " " in held.owner else held.owner
                return FailedPrecondition(f"{_words(element)} is in use by the container {container}: choose another")
    return FailedPrecondition("a port is asked for twice, or was in use a moment ago")


def _words(element: Element) -> str:
    numbers = {number: name for name, number in _PROTOCOLS.items()}
    for sets, before in ((ANY, {4: 0, 6: 0}), (HOSTS, {4: 4, 6: 16})):
        for version, each in sets.items():
            if each == element.set:
                key = element.key[before[version] :]
                return f"the host's port {int.from_bytes(key[4:6], 'big')}/{numbers.get(key[0], key[0])}"
    return "the container's address"
