"""A bridge, made when the first container comes, and a pair of links from it to each container."""

from __future__ import annotations

import errno
import ipaddress
import struct
from typing import Any

import msgspec
from intermodal_cni import masquerade
from intermodal_cni.links import LinkType, host_end, mac_for, random_mac
from intermodal_cni.types import (
    allocate,
    ask_ipam,
    configure,
    inside,
    kernel,
    names,
    namespace,
    on_host,
    placed,
    read,
    refuse_taken,
    release,
    undone,
)
from intermodal_core.contracts.cni import Call, Host, Interface, Result, Route
from intermodal_core.errors import FailedPrecondition, InvalidArgument, Unimplemented
from intermodal_netlink.route import Link, RouteSocket, kind
from intermodal_netlink.wire import attribute

__all__ = ["Bridge", "BridgeConfig"]

_VLAN_FILTERING, _DEFAULT_PVID = 7, 39  # IFLA_BR_...
_PORT_HAIRPIN, _PORT_ISOLATED = 4, 33  # IFLA_BRPORT_...


class _RuntimeConfig(msgspec.Struct):
    mac: str = ""


class BridgeConfig(msgspec.Struct, rename="camel"):
    """The keys of the type `bridge`, as the reference plugin documents them."""

    bridge: str = "cni0"
    is_gateway: bool = False
    is_default_gateway: bool = False
    force_address: bool = False
    ip_masq: bool = False
    mtu: int = 0
    hairpin_mode: bool = False
    promisc_mode: bool = False
    vlan: int = 0
    preserve_default_vlan: bool = True
    port_isolation: bool = False
    mac: str = ""
    vlan_trunk: Any = None
    macspoofchk: bool = False
    runtime_config: _RuntimeConfig = msgspec.field(default_factory=_RuntimeConfig)


class Bridge(LinkType):
    """Implements `intermodal_core.contracts.cni.CniType`."""

    kind = "veth"

    def add(self, call: Call, host: Host) -> Result:
        """The bridge with its address, the pair, masquerading."""
        config = _config(call)
        with namespace(call) as netns, on_host(host) as links:
            given = allocate(call, host)
            with undone(lambda: release(call, host)):
                given = _with_gateways(config, given)
                with kernel(f"make the bridge {config.bridge}"):
                    bridge = _ensure(links, config)
                    if config.is_gateway:
                        _give_gateways(links, bridge, config, given, host)
                mac = config.runtime_config.mac or config.mac or mac_for(given)
                ours = _connect(links, bridge, config, call, host, netns, mac)
                with undone(lambda: links.delete_link(ours.name)):
                    with inside(call, host) as within, kernel(f"configure {call.interface}"):
                        configure(within, within.link(call.interface).index, given, host, call)
                    if config.ip_masq:
                        addresses = [ipaddress.ip_interface(ip.address) for ip in given.ips]
                        masquerade.masquerade(call, addresses, config.bridge)
        interfaces = (
            Interface(bridge.name, bridge.mac),
            Interface(ours.name, ours.mac),
            Interface(call.interface, mac, config.mtu, call.netns),
        )
        return Result(interfaces, placed(given.ips, 2), given.routes, names(call, given.dns))

    def delete(self, call: Call, host: Host) -> None:
        """The pair goes, and what it held; the bridge stays for others."""
        with on_host(host) as links, kernel("remove the container's link"):
            links.delete_link(host_end(call))
        masquerade.OWNED.remove(call)
        release(call, host)

    def check(self, call: Call, host: Host) -> None:
        """The bridge is there, with the container's link on it, and the link is as it was."""
        config = _config(call)
        with on_host(host) as links, kernel("look at the bridge"):
            bridge = links.find(config.bridge)
            if bridge is None or bridge.kind != "bridge":
                raise FailedPrecondition(f"the bridge {config.bridge} is gone: disconnect and connect the container")
            port = links.find(host_end(call))
            if port is None or port.master != bridge.index:
                raise FailedPrecondition(f"the container's link is not on the bridge {config.bridge}")
        super().check(call, host)
        if config.ip_masq and not masquerade.OWNED.of(call):
            raise FailedPrecondition(f"the container's addresses are no longer masqueraded on {config.bridge}")

    def status(self, call: Call, host: Host) -> None:
        """The bridge is a bridge, if there is one, and there are addresses."""
        config = _config(call)
        with on_host(host) as links, kernel("look at the bridge"):
            _look(links, config.bridge)
        ask_ipam(call, host, "STATUS")

    def gc(self, call: Call, host: Host) -> None:
        """Masquerading of the dead, and their addresses."""
        masquerade.OWNED.collect(call)
        super().gc(call, host)


def _config(call: Call) -> BridgeConfig:
    config = read(call, BridgeConfig)
    if config.is_default_gateway:
        config.is_gateway = True
    if not 0 < len(config.bridge) < 16:
        raise InvalidArgument(f"bridge {config.bridge!r} cannot be the name of a link: 1 to 15 characters")
    if not 0 <= config.vlan < 4095:
        raise InvalidArgument(f"vlan {config.vlan} is none: write 1 to 4094, or 0 for none")
    if config.hairpin_mode and config.promisc_mode:
        raise InvalidArgument("hairpinMode and promiscMode exclude each other")
    if config.mtu < 0:
        raise InvalidArgument(f"mtu {config.mtu} is less than nothing")
    for key, asked in (("vlanTrunk", config.vlan_trunk), ("macspoofchk", config.macspoofchk)):
        if asked:
            raise Unimplemented(f"{key} is not supported by this bridge plugin: take it out of the configuration")
    return config


def _look(links: RouteSocket, name: str) -> Link | None:
    found = links.find(name)
    if found is not None and found.kind != "bridge":
        raise FailedPrecondition(
            f"{name} is there and no bridge, but a {found.kind or 'device'}: name another one in bridge"
        )
    return found


def _ensure(links: RouteSocket, config: BridgeConfig) -> Link:
    found = _look(links, config.bridge)
    if found is None:
        data = []
        if config.vlan:
            data.append(attribute(_VLAN_FILTERING, b"\1"))
            if not config.preserve_default_vlan:
                data.append(attribute(_DEFAULT_PVID, struct.pack("=H", 0)))
        try:
            # With an address of its own, or the bridge would take on that of whichever port has the lowest.
            links.add_link(config.bridge, kind("bridge", *data), mac=random_mac(), mtu=config.mtu, up=True)
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise  # that: another container's came first
        found = _look(links, config.bridge)
        if found is None:
            raise FailedPrecondition(f"the bridge {config.bridge} was removed while it was being made")
        if config.promisc_mode:
            links.set_link(found.index, promiscuous=True)
    elif not found.flags & 1:
        links.set_link(found.index, up=True)
    if config.vlan and found.data.get(_VLAN_FILTERING) != b"\1":
        links.set_bridge(found.index, attribute(_VLAN_FILTERING, b"\1"))
    return found


def _with_gateways(config: BridgeConfig, given: Result) -> Result:
    """Gateways where the address manager gave none and this bridge is to be one, and the default routes by it."""
    if not config.is_gateway:
        return given
    ips = []
    gateways: dict[int, str] = {}
    for ip in given.ips:
        address = ipaddress.ip_interface(ip.address)
        ips.append(msgspec.structs.replace(ip, gateway=ip.gateway or str(address.network.network_address + 1)))
        gateways.setdefault(address.version, ips[-1].gateway)
    routes = list(given.routes)
    if config.is_default_gateway:
        there = {ipaddress.ip_network(route.dst, strict=False) for route in routes}
        for version, everywhere in ((4, "0.0.0.0/0"), (6, "::/0")):
            if version in gateways and ipaddress.ip_network(everywhere) not in there:
                routes.append(Route(everywhere, gateways[version]))
    return msgspec.structs.replace(given, ips=tuple(ips), routes=tuple(routes))


def _give_gateways(links: RouteSocket, bridge: Link, config: BridgeConfig, given: Result, host: Host) -> None:
    there = [each.interface for each in links.addresses(bridge.index)]
    for ip in given.ips:
        network = ipaddress.ip_interface(ip.address).network
        wanted = ipaddress.ip_interface(f"{ip.gateway}/{network.prefixlen}")
        if wanted not in there:
            for other in there:
                overlaps = (
                    other.version == wanted.version and other.network.overlaps(network) and not other.is_link_local
                )
                if overlaps and not config.force_address:
                    raise FailedPrecondition(
                        f"the bridge {config.bridge} has the address {other}, which overlaps {wanted}: "
                        f"set forceAddress, or name another bridge"
                    )
                if overlaps:
                    links.delete_address(bridge.index, other)
            if wanted.version == 6:
                host.sysctl("", f"ipv6/conf/{config.bridge}/disable_ipv6", "0")
            try:
                links.configure(bridge.index, [wanted], up=False)
            except OSError as error:
                if error.errno != errno.EEXIST:
                    raise
        host.sysctl("", "ipv4/ip_forward" if wanted.version == 4 else "ipv6/conf/all/forwarding", "1")


def _connect(
    links: RouteSocket, bridge: Link, config: BridgeConfig, call: Call, host: Host, netns: int, mac: str
) -> Interface:
    """Make the pair; the host's end."""
    name, ours = host_end(call), random_mac()
    try:
        with kernel(f"make the pair {name} and {call.interface}"):
            links.add_veth(name, call.interface, netns, mtu=config.mtu, master=bridge.index, mac=mac, own_mac=ours)
    except Exception:
        with inside(call, host) as within:
            refuse_taken(call, within)
        raise
    if config.hairpin_mode or config.port_isolation or config.vlan:
        with undone(lambda: links.delete_link(name)), kernel(f"set up the port {name}"):
            port = links.link(name)
            flags = [
                attribute(number, b"\1")
                for number, wanted in ((_PORT_HAIRPIN, config.hairpin_mode), (_PORT_ISOLATED, config.port_isolation))
                if wanted
            ]
            if flags:
                links.set_port(port.index, *flags)
            if config.vlan:
                links.set_port_vlan(port.index, config.vlan)
    return Interface(name, ours)
