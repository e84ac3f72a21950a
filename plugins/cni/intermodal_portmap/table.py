"""The table `imod-portmap`: maps from the host's ports to the containers', looked up once a connection."""

from __future__ import annotations

from collections.abc import Iterable

from intermodal_netlink import expressions as e
from intermodal_netlink.nftables import Chain, Set, Table

__all__ = ["ANY", "HOMES", "HOSTS", "PORTMAP"]

_ADDRESS = {4: "ipv4_addr", 6: "ipv6_addr"}
_BEHIND = {4: 9, 6: 12}  # the register behind an address
_MARK = 0x2000
_NAT, _FILTER = "nat", "filter"
_PREROUTING, _FORWARD, _OUTPUT, _POSTROUTING = 0, 2, 3, 4

#: Ports of every address of the host; the protocol is part of the key.
ANY = {v: Set(f"any{v}", ("inet_proto", "inet_service"), (a, "inet_service")) for v, a in _ADDRESS.items()}
#: Ports of one address of the host.
HOSTS = {v: Set(f"hosts{v}", (a, "inet_proto", "inet_service"), (a, "inet_service")) for v, a in _ADDRESS.items()}
#: Containers with ports, and the link that they are behind.
HOMES = {v: Set(f"homes{v}", (a, "ifname")) for v, a in _ADDRESS.items()}


def _ports() -> Iterable[tuple[bytes, ...]]:
    for v, behind in _BEHIND.items():
        yield (
            *e.family(v),
            e.address(v, "destination"),
            e.meta("l4proto", behind),
            e.port(behind + 1),
            e.lookup(HOSTS[v].name, map=True),
            e.destination_nat(v),
        )
        yield (*e.family(v), e.meta("l4proto"), e.port(9), e.lookup(ANY[v].name, map=True), e.destination_nat(v))


def _marks() -> Iterable[tuple[bytes, ...]]:
    """What comes from the link that its new destination is behind: the answer would not come back this way."""
    for v, behind in _BEHIND.items():
        home = (e.address(v, "destination"), e.meta("iifname", behind), e.lookup(HOMES[v].name))
        yield (*e.translated(), *e.family(v), *home, *e.set_mark(_MARK))


_LOOPBACK_4 = b"\x7f"
_LO = b"lo".ljust(16, b"\0")

PORTMAP = Table(
    "imod-portmap",
    (*ANY.values(), *HOSTS.values(), *HOMES.values()),
    (
        Chain("ports", tuple(_ports())),
        Chain("prerouting", ((*e.to_local(), e.verdict("jump", "ports")),), _NAT, _PREROUTING, -100),
        Chain("output", ((*e.to_local(), e.verdict("jump", "ports")),), _NAT, _OUTPUT, -100),
        Chain("forward", tuple(_marks()), _FILTER, _FORWARD, 0),
        Chain(
            "postrouting",
            (
                (*e.has_mark(_MARK), e.masquerade()),
                (*e.translated(), *e.family(4), e.prefix_byte(4, "source"), e.compare(_LOOPBACK_4), e.masquerade()),
            ),
            _NAT,
            _POSTROUTING,
            100,
        ),
        # route_localnet lets the host reach its containers from 127.0.0.1; nobody else is to reach the host's 127.0.0.1.
        Chain(
            "guard",
            (
                (
                    e.meta("iifname"),
                    e.compare(_LO, equal=False),
                    *e.family(4),
                    e.prefix_byte(4, "destination"),
                    e.compare(_LOOPBACK_4),
                    e.verdict("drop"),
                ),
            ),
            _FILTER,
            _PREROUTING,
            -300,
        ),
    ),
)
