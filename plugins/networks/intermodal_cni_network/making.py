"""Lists that we write: the default one, and those of `imod network create`."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from intermodal_cni.lists import NAME, NetworkList, parse
from intermodal_core.contracts.networks import NetworkSpec
from intermodal_core.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from intermodal_netlink.route import RouteSocket

__all__ = ["DEFAULT", "default_list", "list_of", "subnets_of", "write"]

Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network

DEFAULT = "default"
#: The root of a daemon that was told none; any other has networks of other names, so that two daemons get on.
_USUAL_ROOT = Path("/var/lib/intermodal")
_POOL = ipaddress.ip_network("10.64.0.0/10")
_USUAL_SUBNET = ipaddress.ip_network("10.63.0.0/16")
_DRIVERS = ("bridge", "macvlan", "ipvlan", "ptp")


def default_list(root: Path, leases: Path) -> NetworkList:
    """The network that a container gets when nobody names one: a bridge with masquerading, isolated from the others."""
    daemon = root.parent.parent
    if daemon == _USUAL_ROOT:
        return _bridge(DEFAULT, "imod0", [_USUAL_SUBNET], [], leases)
    mark = zlib.crc32(str(daemon).encode())
    subnet = list(_POOL.subnets(new_prefix=24))[mark % (1 << 14)]
    return _bridge(f"{DEFAULT}-{mark:08x}", f"imod{mark:08x}", [subnet], [], leases)


def list_of(spec: NetworkSpec, others: Iterable[NetworkList], leases: Path) -> NetworkList:
    """The list that a spec describes. Raises InvalidArgument, AlreadyExists, FailedPrecondition."""
    if not NAME.fullmatch(spec.name) or len(spec.name) > 64:
        raise InvalidArgument(f"{spec.name!r} is no name of a network: letters, digits, and after the first one _ . -")
    if spec.driver not in _DRIVERS:
        raise InvalidArgument(f"there is no driver {spec.driver}; there are {', '.join(_DRIVERS)}")
    others = list(others)
    if any(other.name == spec.name for other in others):
        raise AlreadyExists(
            f"there is a network {spec.name} already: choose another name, or imod network rm {spec.name}"
        )
    try:
        subnets = [ipaddress.ip_network(subnet) for subnet in spec.subnets]
        gateways = [ipaddress.ip_address(gateway) for gateway in spec.gateways]
    except ValueError as error:
        raise InvalidArgument(f"the network {spec.name}: {error}") from None
    for gateway in gateways:
        if not any(gateway in subnet for subnet in subnets):
            raise InvalidArgument(f"the gateway {gateway} is in none of the network's subnets")
    taken = [subnet for other in others for subnet in subnets_of(other)]
    for number, subnet in enumerate(subnets):
        if clash := next((one for one in (*taken, *subnets[:number]) if _overlap(one, subnet)), None):
            raise FailedPrecondition(
                f"the subnet {subnet} overlaps {clash}, which another network uses: choose another"
            )
    if not subnets:
        subnets = [_free_subnet([*taken, *_routed()])]
    if spec.driver == "bridge":
        bridge = spec.options.get("bridge") or f"im{zlib.crc32(spec.name.encode()):08x}"
        return _bridge(spec.name, bridge, subnets, gateways, leases, spec)
    main: dict[str, Any] = {"type": spec.driver, **_own(spec), "ipam": _ipam(subnets, gateways, leases)}
    if spec.driver == "ptp":
        main["ipMasq"] = not spec.internal
    if not spec.internal:
        main["ipam"]["routes"] = [{"dst": "0.0.0.0/0" if subnet.version == 4 else "::/0"} for subnet in subnets]
    plugins = [main, {"type": "tuning", "capabilities": {"mac": True}}]
    if spec.driver == "ptp":
        plugins.append({"type": "portmap", "capabilities": {"portMappings": True}})
    return _parsed(spec.name, plugins)


def write(directory: Path, network: NetworkList, prefix: str = "") -> Path:
    """The list as a file of ours, whole or not at all."""
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    path = directory / f"{prefix}{network.name}.conflist"
    new = path.with_name(f".{path.name}.new")
    new.write_text(json.dumps(network.document(), indent=2) + "\n")
    os.rename(new, path)
    return path


def subnets_of(network: NetworkList) -> list[Subnet]:
    """The subnets that the list's address manager gives from."""
    found = []
    for plugin in network.plugins:
        ipam = plugin.get("ipam", {})
        written = [each for group in ipam.get("ranges") or () for each in group] + [ipam]
        for each in written:
            try:
                found.append(ipaddress.ip_network(each["subnet"], strict=False))
            except (KeyError, ValueError, TypeError):
                continue
    return found


def _bridge(
    name: str,
    bridge: str,
    subnets: list[Any],
    gateways: list[Any],
    leases: Path,
    spec: NetworkSpec | None = None,
) -> NetworkList:
    internal = spec is not None and spec.internal
    main: dict[str, Any] = {
        "type": "bridge",
        "bridge": bridge,
        "isGateway": True,
        "isDefaultGateway": not internal,
        "ipMasq": not internal,
        "hairpinMode": True,
        **(_own(spec) if spec else {}),
        "ipam": _ipam(subnets, gateways, leases),
    }
    plugins: list[dict[str, Any]] = [
        main,
        {"type": "portmap", "capabilities": {"portMappings": True}},
        {"type": "firewall", "ingressPolicy": "same-bridge"},
        {"type": "bandwidth", "capabilities": {"bandwidth": True}},
    ]
    main["capabilities"] = {"mac": True}
    return _parsed(name, plugins)


def _parsed(name: str, plugins: list[dict[str, Any]]) -> NetworkList:
    return parse(json.dumps({"cniVersion": "1.1.0", "name": name, "plugins": plugins}))


def _own(spec: NetworkSpec) -> dict[str, Any]:
    """The driver's keys that were asked for; numbers, true and false as JSON has them."""
    values: dict[str, Any] = {"mtu": spec.mtu} if spec.mtu else {}
    for key, text in spec.options.items():
        try:
            values[key] = json.loads(text)
        except ValueError:
            values[key] = text
    return values


def _ipam(subnets: list[Any], gateways: list[Any], leases: Path) -> dict[str, Any]:
    ranges = []
    for subnet in subnets:
        written = {"subnet": str(subnet)}
        if gateway := next((each for each in gateways if each in subnet), None):
            written["gateway"] = str(gateway)
        ranges.append([written])
    return {"type": "host-local", "dataDir": str(leases), "ranges": ranges}


def _overlap(one: Subnet, other: Subnet) -> bool:
    return one.version == other.version and one.overlaps(other)


def _routed() -> list[Subnet]:
    """Where the host's routes lead, but for the default one."""
    with RouteSocket(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)) as links:
        return [route.destination for route in links.routes(socket.AF_INET) if route.destination.prefixlen]


def _free_subnet(taken: list[Subnet]) -> Subnet:
    for subnet in _POOL.subnets(new_prefix=24):
        if not any(_overlap(subnet, one) for one in taken):
            return subnet
    raise FailedPrecondition("every subnet of 10.64.0.0/10 is in use: name one with --subnet")
