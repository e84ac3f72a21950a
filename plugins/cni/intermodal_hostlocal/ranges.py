"""Ranges of addresses: read, checked, and searched for a free one."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any

import msgspec
from intermodal_core.errors import InvalidArgument

__all__ = ["IP", "Range", "RangeSet", "read_sets"]

IP = ipaddress.IPv4Address | ipaddress.IPv6Address


class _Written(msgspec.Struct, rename="camel"):
    subnet: str
    range_start: str = ""
    range_end: str = ""
    gateway: str = ""


class Range:
    """Addresses from `start` to `end` of `network`, but for its gateway."""

    def __init__(self, written: _Written) -> None:
        try:
            self.network = ipaddress.ip_network(written.subnet)
        except ValueError as error:
            raise InvalidArgument(f"subnet {written.subnet}: {error}") from None
        if self.network.prefixlen > self.network.max_prefixlen - 2:
            raise InvalidArgument(f"subnet {written.subnet} is too small to give addresses from")
        first, last = self.network.network_address + 1, self.network.broadcast_address
        if self.network.version == 4:
            last -= 1
        self.gateway = self._within("gateway", written.gateway) if written.gateway else first
        self.start = self._within("rangeStart", written.range_start) if written.range_start else first
        self.end = self._within("rangeEnd", written.range_end) if written.range_end else last
        if int(self.start) > int(self.end):
            raise InvalidArgument(f"the range {self} ends before it begins")

    def _within(self, key: str, text: str) -> IP:
        try:
            address = ipaddress.ip_address(text)
        except ValueError as error:
            raise InvalidArgument(f"{key} {text}: {error}") from None
        if address not in self.network:
            raise InvalidArgument(f"{key} {text} is not in the subnet {self.network}")
        return address

    def __contains__(self, address: IP) -> bool:
        return address.version == self.network.version and int(self.start) <= int(address) <= int(self.end)

    def __str__(self) -> str:
        return f"{self.start}-{self.end}"

    def overlaps(self, other: Range) -> bool:
        """Whether they have an address in common."""
        return self.network.version == other.network.version and (
            int(self.start) <= int(other.end) and int(other.start) <= int(self.end)
        )


class RangeSet:
    """Ranges of which one address is given."""

    def __init__(self, ranges: list[Range]) -> None:
        if not ranges:
            raise InvalidArgument("a set of ranges is empty")
        if len({each.network.version for each in ranges}) > 1:
            raise InvalidArgument(f"the ranges {', '.join(map(str, ranges))} of one set are of IPv4 and of IPv6")
        self.ranges = ranges

    def __str__(self) -> str:
        return ", ".join(map(str, self.ranges))

    def holding(self, address: IP) -> Range | None:
        """The range that an address is of."""
        return next((each for each in self.ranges if address in each), None)

    def after(self, last: IP | None) -> Iterator[tuple[IP, Range]]:
        """Every address once, from the one after `last` on, round and round; gateways are left out."""
        begin = self.holding(last) if last is not None else None
        at = self.ranges.index(begin) if begin is not None else 0
        order = self.ranges[at:] + self.ranges[:at]
        spans = [(int(each.start), int(each.end), each) for each in order]
        if begin is not None and last is not None:
            spans[0] = (int(last) + 1, int(begin.end), begin)
            spans.append((int(begin.start), int(last), begin))
        for start, end, each in spans:
            make = ipaddress.IPv4Address if each.network.version == 4 else ipaddress.IPv6Address
            for number in range(start, end + 1):
                address = make(number)
                if address != each.gateway:
                    yield address, each


def read_sets(ipam: dict[str, Any], asked: Any) -> list[RangeSet]:
    """The sets that a configuration lists, with those that the runtime asks for (`ipRanges`) before them.

    Raises InvalidArgument: malformed, overlapping or empty ones.
    """
    listed = [*(asked or ()), *(ipam.get("ranges") or ())]
    if "subnet" in ipam:
        listed.insert(
            len(asked or ()), [{key: ipam[key] for key in _Written.__struct_encode_fields__ if ipam.get(key)}]
        )
    try:
        written = msgspec.convert(listed, list[list[_Written]])
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"ipam.ranges: {error}") from None
    sets = [RangeSet([Range(each) for each in group]) for group in written]
    if not sets:
        raise InvalidArgument("ipam lists no range: write ranges, or a subnet")
    every = [each for group in sets for each in group.ranges]
    for at, one in enumerate(every):
        for other in every[at + 1 :]:
            if one.overlaps(other):
                raise InvalidArgument(f"the ranges {one} and {other} overlap")
    return sets
