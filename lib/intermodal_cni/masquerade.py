"""Masquerading by nftables: the table `imod-masquerade`, which all types that have `ipMasq` share.

`sources` are the addresses to be hidden; `homes` says by which link each is reached, since what stays on that link keeps its
address, also where a bridge's frames are shown to netfilter.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from intermodal_core.contracts.cni import Call
from intermodal_netlink import expressions as e
from intermodal_netlink.nftables import Chain, Element, NftSocket, Set, Table, link_name, pack

from intermodal_cni.owned import Owned
from intermodal_cni.types import kernel, owner

__all__ = ["MASQUERADE", "OWNED", "masquerade"]

_SOURCES = {4: Set("sources4", ("ipv4_addr",)), 6: Set("sources6", ("ipv6_addr",))}
_HOMES = {4: Set("homes4", ("ipv4_addr", "ifname")), 6: Set("homes6", ("ipv6_addr", "ifname"))}


def _rules(version: int) -> Iterable[tuple[bytes, ...]]:
    source = (*e.family(version), e.address(version, "source"))
    behind = 9 if version == 4 else 12
    yield (*source, e.meta("oifname", behind), e.lookup(f"homes{version}"), e.verdict("return"))
    if version == 4:  # 224.0.0.0/4
        yield (
            *e.family(4),
            e.prefix_byte(4, "destination"),
            e.byte_bits(0xF0),
            e.compare(b"\xe0"),
            e.verdict("return"),
        )
    else:  # ff00::/8
        yield (*e.family(6), e.prefix_byte(6, "destination"), e.compare(b"\xff"), e.verdict("return"))
    yield (*source, e.lookup(f"sources{version}"), e.masquerade())


MASQUERADE = Table(
    "imod-masquerade",
    (*_SOURCES.values(), *_HOMES.values()),
    (Chain("postrouting", (*_rules(4), *_rules(6)), "nat", 4, 100),),
)

#: What of it belongs to whom.
OWNED = Owned(MASQUERADE)


def masquerade(call: Call, addresses: Iterable[ipaddress.IPv4Interface | ipaddress.IPv6Interface], link: str) -> None:
    """Hide these addresses behind the host's, but for what leaves by `link`."""
    elements = []
    for address in addresses:
        sources, homes = _SOURCES[address.version], _HOMES[address.version]
        elements.append(Element(sources, pack(sources.key, address.ip.packed), owner=owner(call)))
        elements.append(Element(homes, pack(homes.key, address.ip.packed, link_name(link)), owner=owner(call)))
    with kernel("masquerade"), NftSocket.open() as nft:
        nft.change_elements(MASQUERADE, elements, exclusive=False)
