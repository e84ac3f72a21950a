"""A pair of links between the host and the container, and nothing else: traffic is routed."""

from __future__ import annotations

import errno
import ipaddress

import msgspec
from intermodal_cni import masquerade
from intermodal_cni.links import LinkType, host_end, mac_for, random_mac
from intermodal_cni.types import (
    allocate,
    inside,
    kernel,
    names,
    namespace,
    on_host,
    placed,
    read,
    refuse_taken,
    release,
    routes_of,
    undone,
)
from intermodal_core.contracts.cni import Call, Host, Interface, IpConfig, Result
from intermodal_core.errors import InvalidArgument
from intermodal_netlink.route import RouteSocket

__all__ = ["PointToPoint"]


class _Config(msgspec.Struct, rename="camel"):
    ip_masq: bool = False
    mtu: int = 0


class PointToPoint(LinkType):
    """Implements `intermodal_core.contracts.cni.CniType`."""

    kind = "veth"

    def add(self, call: Call, host: Host) -> Result:
        """The pair, with routes both ways."""
        config = read(call, _Config)
        if config.mtu < 0:
            raise InvalidArgument(f"mtu {config.mtu} is less than nothing")
        with namespace(call) as netns, on_host(host) as links:
            given = allocate(call, host)
            with undone(lambda: release(call, host)):
                if not given.ips:
                    raise InvalidArgument("a point-to-point link needs an address manager: write ipam")
                given = msgspec.structs.replace(given, ips=tuple(_with_gateway(ip) for ip in given.ips))
                name, ours, theirs = host_end(call), random_mac(), mac_for(given)
                try:
                    with kernel(f"make the pair {name} and {call.interface}"):
                        links.add_veth(name, call.interface, netns, mtu=config.mtu, mac=theirs, own_mac=ours)
                except Exception:
                    with inside(call, host) as within:
                        refuse_taken(call, within)
                    raise
                with undone(lambda: links.delete_link(name)):
                    with kernel(f"configure {name}"):
                        _configure_host(links, name, given, host)
                    with inside(call, host) as within, kernel(f"configure {call.interface}"):
                        _configure_container(within, given, host, call)
                    if config.ip_masq:
                        masquerade.masquerade(call, [ipaddress.ip_interface(ip.address) for ip in given.ips], name)
        interfaces = (Interface(name, ours), Interface(call.interface, theirs, config.mtu, call.netns))
        return Result(interfaces, placed(given.ips, 1), given.routes, names(call, given.dns))

    def delete(self, call: Call, host: Host) -> None:
        """The pair goes, and what it held."""
        with on_host(host) as links, kernel("remove the container's link"):
            links.delete_link(host_end(call))
        masquerade.OWNED.remove(call)
        release(call, host)

    def gc(self, call: Call, host: Host) -> None:
        """Masquerading of the dead, and their addresses."""
        masquerade.OWNED.collect(call)
        super().gc(call, host)


def _with_gateway(ip: IpConfig) -> IpConfig:
    first = ipaddress.ip_interface(ip.address).network.network_address + 1
    return msgspec.structs.replace(ip, gateway=ip.gateway or str(first))


def _configure_host(links: RouteSocket, name: str, given: Result, host: Host) -> None:
    index = links.link(name).index
    for ip in given.ips:
        gateway = ipaddress.ip_address(ip.gateway)
        address = ipaddress.ip_interface(ip.address).ip
        links.configure(index, [ipaddress.ip_interface(f"{gateway}/{gateway.max_prefixlen}")], up=False)
        links.add_routes(links.route(ipaddress.ip_network(address), index))
        host.sysctl("", "ipv4/ip_forward" if gateway.version == 4 else "ipv6/conf/all/forwarding", "1")


def _configure_container(links: RouteSocket, given: Result, host: Host, call: Call) -> None:
    """Nothing of the subnet is on this link but the gateway: all else of it is behind that."""
    index = links.link(call.interface).index
    addresses = [ipaddress.ip_interface(ip.address) for ip in given.ips]
    if any(address.version == 6 for address in addresses):
        host.sysctl(call.netns, f"ipv6/conf/{call.interface}/disable_ipv6", "0")
    links.configure(index, addresses)
    for ip, address in zip(given.ips, addresses, strict=True):
        gateway = ipaddress.ip_address(ip.gateway)
        try:
            links.delete_route(address.network, index)  # the kernel's own, to the whole subnet
        except OSError as error:
            if error.errno not in (errno.ESRCH, errno.ENOENT):
                raise
        source = address.ip if address.version == 4 else None
        links.add_routes(
            links.route(ipaddress.ip_network(gateway), index, source=source),
            links.route(address.network, index, gateway=gateway, source=source),
        )
    links.add_routes(*routes_of(links, index, given))
