"""What all types that make a container's link share."""

from __future__ import annotations

import hashlib
import ipaddress
import os

from intermodal_core.contracts.cni import Call, Host, Result
from intermodal_core.errors import FailedPrecondition, InvalidArgument
from intermodal_netlink.route import Link, RouteSocket

from intermodal_cni.types import ask_ipam, check_addresses

__all__ = ["LinkType", "default_link", "host_end", "link_of", "mac_for"]


class LinkType:
    """The verbs that are the same for all of them: a link is looked at, an address manager is asked."""

    #: The kernel's kind of the container's link; "" where it may be any.
    kind = ""

    def check(self, call: Call, host: Host) -> None:
        """The link, its addresses and its routes are there."""
        check_addresses(call, host, self.kind)
        ask_ipam(call, host, "CHECK")

    def status(self, call: Call, host: Host) -> None:
        """The address manager can give addresses."""
        ask_ipam(call, host, "STATUS")

    def gc(self, call: Call, host: Host) -> None:
        """A link goes with its container's namespace; addresses are the manager's."""
        ask_ipam(call, host, "GC")


def host_end(call: Call) -> str:
    """The name of the host's end of a pair: the same for DEL as for ADD, and nobody else's."""
    words = f"{call.config.get('name', '')} {call.container} {call.interface}"
    return f"veth{hashlib.sha256(words.encode()).hexdigest()[:11]}"


def mac_for(given: Result) -> str:
    """A local hardware address, made from the IPv4 address where there is one.

    Whoever gets an address again then has the hardware address that neighbours remember for it.
    """
    for ip in given.ips:
        address = ipaddress.ip_interface(ip.address)
        if address.version == 4:
            return (b"\x0a\x58" + address.ip.packed).hex(":")
    return random_mac()


def random_mac() -> str:
    """A local, unicast hardware address."""
    first, *rest = os.urandom(6)
    return bytes((first & 0xFC | 0x02, *rest)).hex(":")


def default_link(links: RouteSocket) -> Link:
    """The link by which the default route leads. Raises FailedPrecondition."""
    for family in (2, 10):
        for route in links.routes(family):
            if route.destination.prefixlen == 0 and route.index:
                return links.link_at(route.index)
    raise FailedPrecondition("there is no default route to take a master link from: name one in master")


def link_of(links: RouteSocket, name: str, what: str = "master") -> Link:
    """The link that a configuration names. Raises InvalidArgument."""
    link = links.find(name)
    if link is None:
        raise InvalidArgument(f"the {what} link {name} does not exist")
    return link
