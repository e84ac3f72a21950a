"""Addresses from ranges, leased in files on this host."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import msgspec
from intermodal_cni.types import kernel
from intermodal_core.contracts.cni import Call, Dns, Host, IpConfig, Result, Route
from intermodal_core.errors import FailedPrecondition, InvalidArgument, ResourceExhausted

from intermodal_hostlocal.ranges import IP, RangeSet, read_sets
from intermodal_hostlocal.store import Store

__all__ = ["HostLocal"]

DATA = "/var/lib/cni/networks"


class _Ipam(msgspec.Struct, rename="camel"):
    routes: tuple[Route, ...] = ()
    data_dir: str = DATA
    resolv_conf: str = ""


class HostLocal:
    """Implements `intermodal_core.contracts.cni.CniType`: an address manager."""

    def add(self, call: Call, host: Host) -> Result:
        """An address of each set of ranges: the one asked for, or the next one that is free."""
        ipam, sets = _configuration(call)
        asked = _asked(call)
        dns = _read_resolv_conf(ipam.resolv_conf) if ipam.resolv_conf else Dns()
        lease = (call.container, call.interface)
        ips: list[IpConfig] = []
        with kernel("lease an address"), Store(ipam.data_dir, call.config["name"]) as store:
            mine = [ipaddress.ip_address(each) for each in store.of(*lease)]
            try:
                for number, each in enumerate(sets):
                    if double := next((address for address in mine if each.holding(address)), None):
                        raise FailedPrecondition(
                            f"{double} is leased to {call.container} {call.interface} already: DEL it first"
                        )
                    ips.append(_lease(store, each, number, lease, asked))
                if asked:
                    raise InvalidArgument(f"no range of {call.config['name']} holds {', '.join(map(str, asked))}")
            except BaseException:
                for ip in ips:
                    store.release(ip.address.partition("/")[0])
                raise
        return Result(ips=tuple(ips), routes=ipam.routes, dns=dns)

    def delete(self, call: Call, host: Host) -> None:
        """Give back what the attachment has."""
        store = _store(call, make=False)
        if store.there:
            with kernel("give an address back"), store:
                for address in store.of(call.container, call.interface):
                    store.release(address)

    def check(self, call: Call, host: Host) -> None:
        """The attachment has a lease."""
        store = _store(call, make=False)
        if store.there:
            with kernel("look at the leases"), store:
                if store.of(call.container, call.interface):
                    return
        raise FailedPrecondition(
            f"{call.container} {call.interface} has no address of {call.config['name']} leased any more"
        )

    def status(self, call: Call, host: Host) -> None:
        """Each set of ranges has an address to give."""
        ipam, sets = _configuration(call)
        with kernel("look at the leases"), Store(ipam.data_dir, call.config["name"]) as store:
            taken = store.taken()
            for number, each in enumerate(sets):
                if _free(each, store.last(number), taken) is None:
                    raise FailedPrecondition(f"no address of {each} is free")

    def gc(self, call: Call, host: Host) -> None:
        """Give back what is leased to attachments that are not valid."""
        store = _store(call, make=False)
        if store.there:
            valid = {(each.container, each.interface) for each in call.valid}
            containers = {each.container for each in call.valid}
            with kernel("collect leases"), store:
                for address, lease in store.leases().items():
                    if lease not in valid and not (lease[1] == "" and lease[0] in containers):
                        store.release(address)


def _configuration(call: Call) -> tuple[_Ipam, list[RangeSet]]:
    ipam = call.config.get("ipam", {})
    sets = read_sets(ipam, call.config.get("runtimeConfig", {}).get("ipRanges"))
    try:
        read = msgspec.convert(ipam, _Ipam)
        for route in read.routes:
            ipaddress.ip_network(route.dst, strict=False)
    except (msgspec.ValidationError, ValueError) as error:
        raise InvalidArgument(f"ipam: {error}") from None
    return read, sets


def _store(call: Call, make: bool) -> Store:
    return Store(call.config.get("ipam", {}).get("dataDir") or DATA, call.config["name"], make)


def _asked(call: Call) -> list[IP]:
    """Addresses that were asked for: by CNI_ARGS, by the conventions' args, by the capability `ips`."""
    cni: Any = call.config.get("args", {}).get("cni", {})
    texts = [*cni.get("ips", ()), *call.config.get("runtimeConfig", {}).get("ips", ())]
    if call.args.get("IP"):
        texts.append(call.args["IP"])
    try:
        return list(dict.fromkeys(ipaddress.ip_address(str(text).partition("/")[0]) for text in texts))
    except ValueError as error:
        raise InvalidArgument(f"an address that was asked for is none: {error}") from None


def _lease(store: Store, ranges: RangeSet, number: int, lease: tuple[str, str], asked: list[IP]) -> IpConfig:
    wanted = next((address for address in asked if ranges.holding(address)), None)
    if wanted is not None:
        asked.remove(wanted)
        held = ranges.holding(wanted)
        assert held is not None
        if wanted == held.gateway:
            raise InvalidArgument(f"{wanted} is the gateway of {held.network}: ask for another address")
        if not store.reserve(wanted, lease, number):
            raise FailedPrecondition(f"{wanted} is leased to another container: ask for another address, or for none")
        return IpConfig(f"{wanted}/{held.network.prefixlen}", str(held.gateway))
    found = _free(ranges, store.last(number), store.taken())
    if found is None or not store.reserve(found[0], lease, number):
        raise ResourceExhausted(f"no address of {ranges} is free: remove containers, or widen the range")
    address, held = found
    return IpConfig(f"{address}/{held.network.prefixlen}", str(held.gateway))


def _free(ranges: RangeSet, last: IP | None, taken: set[str]) -> tuple[IP, Any] | None:
    """The next address without a file. At most one more than there are files is looked at."""
    return next((pair for pair in ranges.after(last) if str(pair[0]) not in taken), None)


def _read_resolv_conf(path: str) -> Dns:
    try:
        lines = Path(path).read_text(errors="replace").splitlines()
    except OSError as error:
        raise InvalidArgument(f"ipam.resolvConf {path}: {error.strerror}") from None
    found: dict[str, list[str]] = {}
    for line in lines:
        words = line.split()
        if words and not words[0].startswith(("#", ";")):
            found.setdefault(words[0], []).extend(words[1:])
    return Dns(
        tuple(found.get("nameserver", ())),
        next(iter(found.get("domain", ())), ""),
        tuple(found.get("search", ())),
        tuple(found.get("options", ())),
    )
