"""Results as each version of the specification writes them; inside, everything is of the newest."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

import msgspec
from intermodal_core.contracts.cni import Result
from intermodal_core.errors import InvalidArgument

from intermodal_cni.errors import INCOMPATIBLE, UNDECODABLE, numbered

__all__ = ["NEWEST", "SUPPORTED", "check_version", "decode_result", "encode_result"]

SUPPORTED = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
NEWEST = SUPPORTED[-1]

#: Keys that 1.1 added.
_NEW_OF_INTERFACE = ("mtu", "socketPath", "pciID")
_NEW_OF_ROUTE = ("mtu", "advmss", "priority", "table", "scope")


def check_version(version: str) -> str:
    """The version, if it is supported. Raises InvalidArgument (number 1)."""
    if version not in SUPPORTED:
        raise numbered(
            INCOMPATIBLE,
            f"cniVersion {version or '(none)'} is not supported: write one of {', '.join(SUPPORTED)}",
            InvalidArgument,
        )
    return version


def encode_result(result: Result, version: str, *, interfaces: bool = True) -> dict[str, Any]:
    """The result as a document of that version; that of an address manager has no `interfaces`."""
    document: dict[str, Any] = {"cniVersion": version, **msgspec.to_builtins(result)}
    if not interfaces:
        document.pop("interfaces", None)
        for ip in document.get("ips", ()):
            ip.pop("interface", None)
    if version != NEWEST:
        _drop(document.get("interfaces", ()), _NEW_OF_INTERFACE)
        _drop(document.get("routes", ()), _NEW_OF_ROUTE)
    if version < "1.0.0":
        for ip in document.get("ips", ()):
            ip["version"] = str(ipaddress.ip_interface(ip["address"]).version)
    document.setdefault("dns", {})
    return document


def decode_result(document: Mapping[str, Any]) -> Result:
    """The result that a document of any supported version holds. Raises InvalidArgument (number 6)."""
    try:
        result = msgspec.convert({key: value for key, value in document.items() if value is not None}, Result)
        for ip in result.ips:
            ipaddress.ip_interface(ip.address)
            if ip.interface is not None and not 0 <= ip.interface < max(len(result.interfaces), 1):
                raise ValueError(f"the address {ip.address} names interface {ip.interface}, which is not listed")
        for route in result.routes:
            ipaddress.ip_network(route.dst, strict=False)
    except (msgspec.ValidationError, ValueError) as error:
        raise numbered(UNDECODABLE, f"the result is not one: {error}", InvalidArgument) from error
    return result


def _drop(items: Any, keys: tuple[str, ...]) -> None:
    for item in items:
        for key in keys:
            item.pop(key, None)
