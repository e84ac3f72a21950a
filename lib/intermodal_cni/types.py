"""What the authors of types share: reading a configuration, being undone, and asking the address manager."""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
from intermodal_core.contracts.cni import Call, Dns, Host, IpConfig, Result
from intermodal_core.errors import (
    AlreadyExists,
    FailedPrecondition,
    IntermodalError,
    InvalidArgument,
    NotFound,
    from_os_error,
)
from intermodal_netlink.route import RouteSocket

__all__ = [
    "HOST",
    "allocate",
    "ask_ipam",
    "check_addresses",
    "configure",
    "inside",
    "kernel",
    "names",
    "namespace",
    "on_host",
    "owner",
    "placed",
    "read",
    "refuse_taken",
    "release",
    "routes_of",
    "undone",
]

C = TypeVar("C", bound=msgspec.Struct)

HOST = ""
_INTERFACE = re.compile(r"[^\s/:]{1,15}")


def read(call: Call, into: type[C]) -> C:
    """The configuration as the type's own struct; keys that it does not have are for others. Raises InvalidArgument."""
    try:
        return msgspec.convert({key: value for key, value in call.config.items() if value is not None}, into)
    except msgspec.ValidationError as error:
        where = f"the network {call.config.get('name', '')}, plugin {call.config.get('type', '')}"
        raise InvalidArgument(f"{where}: {error}") from None


@contextmanager
def undone(undo: Callable[[], object]) -> Iterator[None]:
    """What is done inside is undone by `undo` when it raises; the first error is the one raised."""
    try:
        yield
    except BaseException:
        try:
            undo()
        except IntermodalError:
            pass  # DEL follows a failed ADD, and says what stays
        raise


@contextmanager
def kernel(doing: str) -> Iterator[None]:
    """Errors of the kernel inside are put into the closed set."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENODEV:
            raise FailedPrecondition(f"{doing}: {error.strerror}") from error
        raise from_os_error(error, doing) from error


def on_host(host: Host) -> RouteSocket:
    """Links and routes of the host."""
    return RouteSocket(host.socket(HOST, socket.AF_NETLINK, socket.SOCK_RAW, 0))


def inside(call: Call, host: Host) -> RouteSocket:
    """Links and routes of the container. Raises NotFound when its namespace is gone."""
    return RouteSocket(host.socket(call.netns, socket.AF_NETLINK, socket.SOCK_RAW, 0))


@contextmanager
def namespace(call: Call) -> Iterator[int]:
    """A descriptor of the container's namespace. Raises NotFound, InvalidArgument for an impossible interface name."""
    if not _INTERFACE.fullmatch(call.interface) or call.interface in (".", ".."):
        raise InvalidArgument(
            f"{call.interface!r} cannot be the name of an interface: at most 15 characters, no / or :"
        )
    if not call.netns:
        raise InvalidArgument("CNI_NETNS is empty: there is no namespace to work in")
    try:
        fd = os.open(call.netns, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NotFound(f"the network namespace {call.netns} cannot be opened: {error.strerror}") from None
    try:
        yield fd
    finally:
        os.close(fd)


def refuse_taken(call: Call, links: RouteSocket) -> None:
    """Raise AlreadyExists when the container has a link of the name that is to be made."""
    if links.find(call.interface) is not None:
        raise AlreadyExists(f"there is an interface {call.interface} in {call.netns} already: choose another name")


def owner(call: Call) -> str:
    """By whom something is held: network, container, interface."""
    return f"{call.config.get('name', '')} {call.container} {call.interface}"


# The address manager.


def ask_ipam(call: Call, host: Host, verb: Any) -> Result | None:
    """Delegate a verb to the address manager, if the configuration names one."""
    kind = call.config.get("ipam", {}).get("type", "")
    return host.delegate(kind, verb, call) if kind else None


def allocate(call: Call, host: Host) -> Result:
    """The addresses that the configured manager gives; an empty result where none is configured."""
    result = ask_ipam(call, host, "ADD") or Result()
    if call.config.get("ipam", {}).get("type") and not result.ips:
        ask_ipam(call, host, "DEL")
        raise FailedPrecondition(f"the address manager {call.config['ipam']['type']} gave no address")
    return result


def release(call: Call, host: Host) -> None:
    """Give the addresses back."""
    ask_ipam(call, host, "DEL")


def configure(links: RouteSocket, index: int, given: Result, host: Host, call: Call) -> None:
    """Bring the container's link up, with what the address manager gave it: addresses, then routes."""
    addresses = [ipaddress.ip_interface(ip.address) for ip in given.ips]
    if any(address.version == 6 for address in addresses):
        host.sysctl(call.netns, f"ipv6/conf/{call.interface}/disable_ipv6", "0")
    links.configure(index, addresses)
    links.add_routes(*routes_of(links, index, given))


def routes_of(links: RouteSocket, index: int, given: Result) -> Iterator[bytes]:
    """The routes of a result, each by its own gateway or that of the first address of its family."""
    gateways: dict[int, str] = {}
    for ip in given.ips:
        if ip.gateway:
            gateways.setdefault(ipaddress.ip_interface(ip.address).version, ip.gateway)
    for route in given.routes:
        destination = ipaddress.ip_network(route.dst, strict=False)
        gateway = route.gw or gateways.get(destination.version, "")
        yield links.route(
            destination,
            index,
            gateway=ipaddress.ip_address(gateway) if gateway and route.scope != 253 else None,
            table=route.table or 0,
            scope=route.scope,
            priority=route.priority,
            mtu=route.mtu,
            advmss=route.advmss,
        )


def placed(ips: tuple[IpConfig, ...], index: int) -> tuple[IpConfig, ...]:
    """The addresses, said to be of the result's interface `index`."""
    return tuple(msgspec.structs.replace(ip, interface=index) for ip in ips)


def names(call: Call, given: Dns) -> Dns:
    """The name servers: the configuration's own, else what the address manager gave."""
    own = call.config.get("dns")
    return msgspec.convert(own, Dns) if own else given


def check_addresses(call: Call, host: Host, mine: str) -> None:
    """Raise FailedPrecondition when the container's link, its addresses or routes are not as the result says."""
    previous = call.previous
    if previous is None:
        raise InvalidArgument("CHECK needs the result of ADD, in prevResult")
    try:
        links = inside(call, host)
    except NotFound as error:
        raise FailedPrecondition(error.message) from error
    with links, kernel(f"look at {call.interface}"):
        link = links.find(call.interface)
        if link is None:
            raise FailedPrecondition(f"the interface {call.interface} is gone from {call.netns}")
        if mine and link.kind != mine:
            raise FailedPrecondition(
                f"the interface {call.interface} is no {mine} any more, but a {link.kind or 'device'}"
            )
        there = {str(each.interface) for each in links.addresses(link.index)}
        for ip in previous.ips:
            listed = previous.interfaces[ip.interface] if ip.interface is not None and previous.interfaces else None
            own = listed is None or (listed.sandbox and listed.name == call.interface)
            if own and str(ipaddress.ip_interface(ip.address)) not in there:
                raise FailedPrecondition(f"{call.interface} in {call.netns} has lost the address {ip.address}")
        for route in previous.routes:
            destination = ipaddress.ip_network(route.dst, strict=False)
            family = socket.AF_INET if destination.version == 4 else socket.AF_INET6
            if destination not in {each.destination for each in links.routes(family) if each.index == link.index}:
                raise FailedPrecondition(f"the route to {route.dst} is gone from {call.netns}")
