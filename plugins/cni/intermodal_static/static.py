"""Addresses that the configuration, or the runtime, names."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

import msgspec
from intermodal_core.contracts.cni import Call, Dns, Host, IpConfig, Result, Route
from intermodal_core.errors import InvalidArgument

__all__ = ["Static"]


class _Ipam(msgspec.Struct):
    addresses: tuple[IpConfig, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: Dns = Dns()


class Static:
    """Implements `intermodal_core.contracts.cni.CniType`: an address manager that keeps nothing."""

    def add(self, call: Call, host: Host) -> Result:
        """The addresses: the runtime's (capability `ips`, args `ips`, CNI_ARGS `IP`), else the configuration's."""
        return _given(call)

    def delete(self, call: Call, host: Host) -> None:
        """Nothing is kept."""

    def check(self, call: Call, host: Host) -> None:
        """Nothing could be gone."""

    def status(self, call: Call, host: Host) -> None:
        """There is nothing to run out of."""

    def gc(self, call: Call, host: Host) -> None:
        """Nothing is kept."""


def _given(call: Call) -> Result:
    try:
        ipam = msgspec.convert(call.config.get("ipam", {}), _Ipam)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"ipam: {error}") from None
    asked = [
        *call.config.get("runtimeConfig", {}).get("ips", ()),
        *call.config.get("args", {}).get("cni", {}).get("ips", ()),
    ]
    if call.args.get("IP"):
        asked += call.args["IP"].split(",")
    ips = [IpConfig(str(address)) for address in asked] or list(ipam.addresses)
    if gateway := call.args.get("GATEWAY"):
        ips = [msgspec.structs.replace(ip, gateway=gateway) for ip in ips]
    if not ips:
        raise InvalidArgument("ipam of the type static lists no address: write addresses")
    _check(ips, ipam.routes)
    return Result(ips=tuple(ips), routes=ipam.routes, dns=ipam.dns)


def _check(ips: Iterable[IpConfig], routes: Iterable[Route]) -> None:
    try:
        for ip in ips:
            if "/" not in ip.address:
                raise ValueError(f"{ip.address} has no prefix length: write ADDRESS/LENGTH")
            ipaddress.ip_interface(ip.address)
            if ip.gateway:
                ipaddress.ip_address(ip.gateway)
        for route in routes:
            ipaddress.ip_network(route.dst, strict=False)
    except ValueError as error:
        raise InvalidArgument(f"ipam: {error}") from None
