"""Links, addresses, routes, neighbours and queues (rtnetlink(7), include/uapi/linux/{rtnetlink,if_link,if_addr}.h)."""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from dataclasses import dataclass, field

from intermodal_netlink.wire import CREATE, EXCL, REPLACE, Netlink, attribute, attributes, nested, text

__all__ = ["IFF_ALLMULTI", "IFF_PROMISC", "IFF_UP", "Address", "Link", "RouteSocket", "Routed", "kind"]

IFF_UP, IFF_PROMISC = 0x1, 0x100
IFF_ALLMULTI = 0x200

_NEWLINK, _DELLINK, _GETLINK, _SETLINK = 16, 17, 18, 19
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
_NEWQDISC, _DELQDISC, _GETQDISC = 36, 37, 38

_ADDRESS, _IFNAME, _MTU, _LINK, _MASTER, _PROTINFO, _TXQLEN = 1, 3, 4, 5, 10, 12, 13
_LINKINFO, _NETNS_FD, _ALIAS = 18, 28, 20
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_DATA = 1, 2, 5
_VETH_PEER = 1
_NODAD = 0x02

_INFO = struct.Struct("=BxHiII")
_ADDR = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_QDISC = struct.Struct("=BxxxiIII")

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
IP = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Link:
    """What there is to know of a link. `kind` is "bridge", "veth", ...; "" for a device."""

    index: int
    name: str
    flags: int
    mac: str
    mtu: int
    kind: str
    master: int = 0
    lower: int = 0
    alias: str = ""
    txqlen: int = 0
    data: dict[int, bytes] = field(default_factory=dict)
    slave: dict[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Address:
    """An address of a link."""

    index: int
    interface: Interface


@dataclass(frozen=True, slots=True)
class Routed:
    """A route of a table: where to, by which gateway ("" for none), through which link."""

    destination: Network
    gateway: str
    index: int
    table: int


def kind(name: str, *data: bytes) -> bytes:
    """The attribute that says what kind of link is to be made, with the kind's own attributes."""
    inner = [text(_INFO_KIND, name)]
    if data:
        inner.append(nested(_INFO_DATA, *data))
    return nested(_LINKINFO, *inner)


class RouteSocket(Netlink):
    """Requests to rtnetlink, each one system call. All raise OSError with the kernel's words; what is not there is ENODEV."""

    # Links.

    def link(self, name: str) -> Link:
        """The link of that name. Raises OSError (ENODEV)."""
        body = _INFO.pack(0, 0, 0, 0, 0) + text(_IFNAME, name)
        return _link(self.dump(_GETLINK, body, flags=0)[0][1])

    def link_at(self, index: int) -> Link:
        """The link of that index. Raises OSError (ENODEV)."""
        return _link(self.dump(_GETLINK, _INFO.pack(0, 0, index, 0, 0), flags=0)[0][1])

    def find(self, name: str) -> Link | None:
        """The link of that name, if there is one."""
        try:
            return self.link(name)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            return None

    def links(self) -> list[Link]:
        """All links."""
        return [_link(body) for _, body in self.dump(_GETLINK, _INFO.pack(0, 0, 0, 0, 0))]

    def add_link(
        self,
        name: str,
        info: bytes,
        *,
        mac: str = "",
        mtu: int = 0,
        lower: int = 0,
        master: int = 0,
        netns: int = -1,
        up: bool = False,
        alias: str = "",
    ) -> None:
        """Make a link, up or down, a port of the link `master`, in the namespace of the descriptor `netns`."""
        body = _INFO.pack(0, 0, 0, IFF_UP if up else 0, IFF_UP if up else 0) + info
        body += _link_attributes(name=name, mac=mac, mtu=mtu, lower=lower, master=master, netns=netns, alias=alias)
        self.change("netlink.add-link", (_NEWLINK, CREATE | EXCL, body))

    def add_veth(
        self, name: str, peer: str, netns: int, *, mtu: int = 0, master: int = 0, mac: str = "", own_mac: str = ""
    ) -> None:
        """A pair: `name` here, up, with `own_mac`, and `peer` in the namespace of the descriptor `netns`, with `mac`."""
        inside = _INFO.pack(0, 0, 0, 0, 0) + _link_attributes(name=peer, mac=mac, mtu=mtu, netns=netns)
        info = kind("veth", nested(_VETH_PEER, inside))
        self.add_link(name, info, mac=own_mac, mtu=mtu, master=master, up=True)

    def delete_link(self, name: str) -> bool:
        """Remove a link; whether it was there."""
        return self.delete_links(name) == 1

    def delete_links(self, *names: str) -> int:
        """Remove those of these links that are there; how many were."""
        found = 0
        for name in names:
            try:
                self.change("netlink.delete-link", (_DELLINK, 0, _INFO.pack(0, 0, 0, 0, 0) + text(_IFNAME, name)))
                found += 1
            except OSError as error:
                if error.errno != errno.ENODEV:
                    raise
        return found

    def set_link(
        self,
        index: int,
        *,
        name: str = "",
        mac: str = "",
        mtu: int = 0,
        master: int | None = None,
        netns: int = -1,
        up: bool | None = None,
        promiscuous: bool | None = None,
        allmulti: bool | None = None,
        txqlen: int | None = None,
        alias: str | None = None,
    ) -> None:
        """Change what is given of a link."""
        flags = mask = 0
        for bit, wanted in ((IFF_UP, up), (IFF_PROMISC, promiscuous), (IFF_ALLMULTI, allmulti)):
            if wanted is not None:
                mask |= bit
                flags |= bit if wanted else 0
        body = _INFO.pack(0, 0, index, flags, mask)
        body += _link_attributes(name=name, mac=mac, mtu=mtu, master=master or 0, netns=netns)
        if master == 0:
            body += attribute(_MASTER, bytes(4))
        if txqlen is not None:
            body += attribute(_TXQLEN, struct.pack("=I", txqlen))
        if alias is not None:
            body += attribute(_ALIAS, alias.encode())
        self.change("netlink.set-link", (_SETLINK, 0, body))

    def set_bridge(self, index: int, *data: bytes) -> None:
        """Change attributes of a bridge, IFLA_BR_..."""
        self.change("netlink.set-bridge", (_NEWLINK, 0, _INFO.pack(0, 0, index, 0, 0) + kind("bridge", *data)))

    def set_port(self, index: int, *data: bytes) -> None:
        """Change attributes of a bridge's port, IFLA_BRPORT_..."""
        body = _INFO.pack(socket.AF_BRIDGE, 0, index, 0, 0) + nested(_PROTINFO, *data)
        self.change("netlink.set-port", (_SETLINK, 0, body))

    def set_port_vlan(self, index: int, vlan: int) -> None:
        """Make a port of a filtering bridge an untagged member of one VLAN."""
        spec = nested(26, attribute(2, struct.pack("=HH", 0x2 | 0x4, vlan)))  # IFLA_AF_SPEC, PVID and untagged
        self.change("netlink.set-port-vlan", (_SETLINK, 0, _INFO.pack(socket.AF_BRIDGE, 0, index, 0, 0) + spec))

    # Addresses.

    def addresses(self, index: int = 0) -> list[Address]:
        """The addresses of a link, or of all."""
        found = []
        for _, body in self.dump(_GETADDR, _ADDR.pack(0, 0, 0, 0, 0)):
            family, prefix, _, _, at = _ADDR.unpack_from(body)
            values = dict(attributes(body[_ADDR.size :]))
            raw = values.get(2) or values.get(1)
            if raw is not None and family in (socket.AF_INET, socket.AF_INET6) and index in (0, at):
                found.append(Address(at, ipaddress.ip_interface((raw, prefix))))
        return found

    def configure(self, index: int, addresses: list[Interface], up: bool = True) -> None:
        """Bring a link up and give it addresses; an IPv6 address is used at once, without asking who else has it."""
        messages = [(_SETLINK, 0, _INFO.pack(0, 0, index, IFF_UP, IFF_UP))] if up else []
        messages += [(_NEWADDR, CREATE | EXCL, _address(index, interface)) for interface in addresses]
        self.change("netlink.configure", *messages)

    def delete_address(self, index: int, interface: Interface) -> None:
        """Take an address away."""
        self.change("netlink.delete-address", (_DELADDR, 0, _address(index, interface)))

    # Routes.

    def routes(self, family: int) -> list[Routed]:
        """The unicast routes of all tables but the kernel's own."""
        found = []
        for _, body in self.dump(_GETROUTE, _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)):
            _, prefix, _, _, table, _, _, type, _ = _ROUTE.unpack_from(body)
            values = dict(attributes(body[_ROUTE.size :]))
            table = int.from_bytes(values[15], "little") if 15 in values else table
            if type != 1 or table == 255:
                continue
            raw = values.get(1) or bytes(4 if family == socket.AF_INET else 16)
            gateway = str(ipaddress.ip_address(values[5])) if 5 in values else ""
            index = struct.unpack("=I", values[4])[0] if 4 in values else 0
            found.append(Routed(ipaddress.ip_network((raw, prefix)), gateway, index, table))
        return found

    def add_routes(self, *routes: bytes) -> None:
        """Add what `route` described; where there is such a route already, that one stays."""
        messages = [(_NEWROUTE, CREATE | EXCL, body) for body in routes]
        self.change("netlink.add-route", *messages, tolerate=errno.EEXIST)

    def delete_route(self, destination: Network, index: int) -> None:
        """Remove the route to a network by a link. Raises OSError (ESRCH)."""
        family = socket.AF_INET if destination.version == 4 else socket.AF_INET6
        body = _ROUTE.pack(family, destination.prefixlen, 0, 0, 254, 0, 255, 0, 0)
        body += attribute(1, destination.network_address.packed) + attribute(4, struct.pack("=I", index))
        self.change("netlink.delete-route", (_DELROUTE, 0, body))

    @staticmethod
    def route(
        destination: Network,
        index: int,
        *,
        gateway: IP | None = None,
        source: IP | None = None,
        table: int = 0,
        scope: int | None = None,
        priority: int = 0,
        mtu: int = 0,
        advmss: int = 0,
        onlink: bool = False,
    ) -> bytes:
        """One route; without a gateway it is to what the link reaches by itself."""
        family = socket.AF_INET if destination.version == 4 else socket.AF_INET6
        if scope is None:
            scope = 253 if gateway is None and family == socket.AF_INET else 0
        body = _ROUTE.pack(
            family, destination.prefixlen, 0, 0, table if 0 < table < 256 else 254, 3, scope, 1, 4 if onlink else 0
        )
        if destination.prefixlen:
            body += attribute(1, destination.network_address.packed)
        body += attribute(4, struct.pack("=I", index))
        if gateway is not None:
            body += attribute(5, gateway.packed)
        if source is not None:
            body += attribute(7, source.packed)
        if priority:
            body += attribute(6, struct.pack("=I", priority))
        if table > 255:
            body += attribute(15, struct.pack("=I", table))
        metrics = [attribute(type, struct.pack("=I", value)) for type, value in ((2, mtu), (8, advmss)) if value]
        return body + (nested(8, *metrics) if metrics else b"")

    # Queues.

    def set_rate(self, index: int, rate: int, burst: int) -> None:
        """Hold what a link sends to `rate` bytes a second, after `burst` bytes at once (a token bucket at its root)."""
        latency = 0.025
        limit = min(int(rate * latency) + burst, 0xFFFFFFFF)
        ticks = _ticks(burst, rate)
        spec = struct.pack("=BBHhHI", 0, 1, 0, 0, 0, min(rate, 0xFFFFFFFF))
        options = attribute(1, spec + bytes(12) + struct.pack("=III", limit, ticks, 0))
        options += attribute(6, struct.pack("=I", burst))
        if rate > 0xFFFFFFFF:
            options += attribute(4, struct.pack("=Q", rate))
        body = _QDISC.pack(0, index, 0, 0xFFFFFFFF, 0) + text(1, "tbf") + nested(2, options)
        self.change("netlink.set-rate", (_NEWQDISC, CREATE | REPLACE, body))

    def rate(self, index: int) -> int | None:
        """Bytes a second that a token bucket at the root of a link lets through; None where there is none."""
        for _, body in self.dump(_GETQDISC, _QDISC.pack(0, index, 0, 0, 0)):
            _, at, _, parent, _ = _QDISC.unpack_from(body)
            values = dict(attributes(body[_QDISC.size :]))
            if at == index and parent == 0xFFFFFFFF and values.get(1) == b"tbf\0":
                options = dict(attributes(values[2]))
                return int(
                    struct.unpack("=Q", options[4])[0] if 4 in options else struct.unpack_from("=I", options[1], 8)[0]
                )
        return None

    def delete_rate(self, index: int) -> None:
        """Take the token bucket away."""
        self.change("netlink.delete-rate", (_DELQDISC, 0, _QDISC.pack(0, index, 0, 0xFFFFFFFF, 0)))


def _ticks(size: int, rate: int) -> int:
    """How long `size` bytes take, in the scheduler's ticks (64 ns each)."""
    return min(int(size * 1_000_000_000 / max(rate, 1) / 64), 0xFFFFFFFF)


def _link_attributes(
    *, name: str = "", mac: str = "", mtu: int = 0, lower: int = 0, master: int = 0, netns: int = -1, alias: str = ""
) -> bytes:
    found: list[bytes] = []
    if name:
        found.append(text(_IFNAME, name))
    if mac:
        found.append(attribute(_ADDRESS, bytes.fromhex(mac.replace(":", "").replace("-", ""))))
    for type, value in ((_MTU, mtu), (_LINK, lower), (_MASTER, master)):
        if value:
            found.append(attribute(type, struct.pack("=I", value)))
    if netns >= 0:
        found.append(attribute(_NETNS_FD, struct.pack("=I", netns)))
    if alias:
        found.append(attribute(_ALIAS, alias.encode()))
    return b"".join(found)


def _address(index: int, interface: Interface) -> bytes:
    family = socket.AF_INET if interface.version == 4 else socket.AF_INET6
    flags = _NODAD if family == socket.AF_INET6 else 0
    body = _ADDR.pack(family, interface.network.prefixlen, flags, 0, index)
    body += attribute(2, interface.ip.packed) + attribute(1, interface.ip.packed)
    if family == socket.AF_INET and interface.network.prefixlen < 31:
        body += attribute(4, interface.network.broadcast_address.packed)
    return body


def _link(body: bytes) -> Link:
    _, _, index, flags, _ = _INFO.unpack_from(body)
    values = dict(attributes(body[_INFO.size :]))
    info = dict(attributes(values.get(_LINKINFO, b"")))
    return Link(
        index,
        values[_IFNAME].rstrip(b"\0").decode(errors="surrogateescape"),
        flags,
        values.get(_ADDRESS, b"").hex(":"),
        _number(values, _MTU),
        info.get(_INFO_KIND, b"").rstrip(b"\0").decode(),
        _number(values, _MASTER),
        _number(values, _LINK),
        values.get(_ALIAS, b"").rstrip(b"\0").decode(errors="replace"),
        _number(values, _TXQLEN),
        dict(attributes(info.get(_INFO_DATA, b""))),
        dict(attributes(info.get(_INFO_SLAVE_DATA, b""))),
    )


def _number(values: dict[int, bytes], type: int) -> int:
    return int(struct.unpack("=I", values[type])[0]) if type in values else 0
