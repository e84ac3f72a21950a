"""Isolation of networks from one another."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any

import msgspec
from intermodal_cni.owned import Owned
from intermodal_cni.types import kernel, owner, read
from intermodal_core.contracts.cni import Call, Host, Result
from intermodal_core.errors import FailedPrecondition, InvalidArgument
from intermodal_netlink import expressions as e
from intermodal_netlink.nftables import Chain, Element, NftSocket, Set, Table, link_name, pack

__all__ = ["Firewall"]

_MEMBERS = {4: Set("members4", ("ipv4_addr", "ifname")), 6: Set("members6", ("ipv6_addr", "ifname"))}


def _rules() -> Iterable[tuple[bytes, ...]]:
    yield (*e.established(), e.verdict("return"))
    yield (*e.translated(), e.verdict("return"))  # a published port is for everybody
    for version, behind in ((4, 9), (6, 12)):
        name = _MEMBERS[version].name
        to = e.address(version, "destination")
        here = (to, e.meta("iifname", behind), e.lookup(name))
        yield (*e.family(version), *here, e.verdict("return"))
        yield (
            *e.family(version),
            e.address(version, "source"),
            e.meta("iifname", behind),
            e.lookup(name),
            to,
            e.meta("oifname", behind),
            e.lookup(name),
            e.verdict("drop"),
        )


#: Members are addresses behind their links: from a member behind one link to a member behind another nothing passes.
FIREWALL = Table("imod-firewall", tuple(_MEMBERS.values()), (Chain("forward", tuple(_rules()), "filter", 2, 0),))
_OWNED = Owned(FIREWALL)


class _Config(msgspec.Struct, rename="camel"):
    ingress_policy: str = "open"
    backend: Any = None  # of iptables and firewalld: nftables has no need to choose


class Firewall:
    """Implements `intermodal_core.contracts.cni.CniType`.

    `ingressPolicy` is "open", or "same-bridge": other networks' containers that have it reach this one by published
    ports only.
    """

    def add(self, call: Call, host: Host) -> Result:
        """Make the container's addresses members."""
        config, previous = _read(call)
        elements = list(_elements(call, previous)) if config.ingress_policy == "same-bridge" else []
        with kernel("isolate"), NftSocket.open() as nft:
            nft.change_elements(FIREWALL, elements, exclusive=False)
        return previous

    def delete(self, call: Call, host: Host) -> None:
        """Members no more."""
        _OWNED.remove(call)

    def check(self, call: Call, host: Host) -> None:
        """They are members."""
        config, previous = _read(call)
        if config.ingress_policy == "same-bridge":
            there = {(each.set.name, each.key) for each in _OWNED.of(call)}
            if not there.issuperset({(each.set.name, each.key) for each in _elements(call, previous)}):
                raise FailedPrecondition(f"{call.container} is not isolated from other networks any more")

    def status(self, call: Call, host: Host) -> None:
        """The kernel has nftables."""
        with kernel("ask for nftables"), NftSocket.open() as nft:
            nft.has(FIREWALL)

    def gc(self, call: Call, host: Host) -> None:
        """The dead are no members."""
        _OWNED.collect(call)


def _read(call: Call) -> tuple[_Config, Result]:
    config = read(call, _Config)
    if config.ingress_policy not in ("", "open", "same-bridge"):
        raise InvalidArgument(f'ingressPolicy {config.ingress_policy!r} is none: write "open" or "same-bridge"')
    if call.previous is None:
        raise InvalidArgument("firewall comes after the plugin that makes the container's link: it needs a prevResult")
    return config, call.previous


def _elements(call: Call, previous: Result) -> Iterable[Element]:
    link = next((each.name for each in previous.interfaces if not each.sandbox), "")
    if not link:
        raise InvalidArgument(
            "the chain before firewall made no link of the host: there is nothing to tell networks by"
        )
    for ip in previous.ips:
        address = ipaddress.ip_interface(ip.address).ip
        into = _MEMBERS[address.version]
        yield Element(into, pack(into.key, address.packed, link_name(link)), owner=owner(call))
