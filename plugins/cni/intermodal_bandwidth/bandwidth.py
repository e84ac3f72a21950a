"""Limits on what the container receives and sends, by token buckets at both ends of its pair of links.

What it receives is held at the host's end, what it sends at its own: no further device and no packet action is needed.
"""

from __future__ import annotations

import msgspec
from intermodal_cni.types import inside, kernel, on_host, read
from intermodal_core.contracts.cni import Call, Host, Result
from intermodal_core.errors import FailedPrecondition, InvalidArgument, NotFound
from intermodal_netlink.route import RouteSocket

__all__ = ["Bandwidth"]

_MAX_BURST = (1 << 32) - 1


class _Limits(msgspec.Struct, rename="camel"):
    """Bits a second, and bits at once."""

    ingress_rate: int = 0
    ingress_burst: int = 0
    egress_rate: int = 0
    egress_burst: int = 0


class _RuntimeConfig(msgspec.Struct):
    bandwidth: _Limits | None = None


class _Config(_Limits, rename="camel"):
    runtime_config: _RuntimeConfig = msgspec.field(default_factory=_RuntimeConfig)


class Bandwidth:
    """Implements `intermodal_core.contracts.cni.CniType`."""

    def add(self, call: Call, host: Host) -> Result:
        """Set the limits; with none there is nothing to do."""
        limits = _read(call)
        if call.previous is None:
            raise InvalidArgument(
                "bandwidth comes after the plugin that makes the container's link: it needs a prevResult"
            )
        if limits.ingress_rate:
            name = _host_end(call, host)
            with on_host(host) as links, kernel(f"limit {name}"):
                links.set_rate(links.link(name).index, limits.ingress_rate // 8, limits.ingress_burst // 8)
        if limits.egress_rate:
            with inside(call, host) as links, kernel(f"limit {call.interface}"):
                links.set_rate(links.link(call.interface).index, limits.egress_rate // 8, limits.egress_burst // 8)
        return call.previous

    def delete(self, call: Call, host: Host) -> None:
        """Take the limits away, where the links are there still."""
        try:
            if call.netns:
                with inside(call, host) as links, kernel(f"no longer limit {call.interface}"):
                    _unlimit(links, call.interface)
            if call.previous is not None and call.netns:
                name = _host_end(call, host)
                with on_host(host) as links, kernel(f"no longer limit {name}"):
                    _unlimit(links, name)
        except (NotFound, FailedPrecondition, InvalidArgument):
            pass  # the limits went with the links

    def check(self, call: Call, host: Host) -> None:
        """The limits are there."""
        limits = _read(call)
        try:
            if limits.ingress_rate:
                name = _host_end(call, host)
                with on_host(host) as links, kernel(f"look at {name}"):
                    _compare(links, name, limits.ingress_rate)
            if limits.egress_rate:
                with inside(call, host) as links, kernel(f"look at {call.interface}"):
                    _compare(links, call.interface, limits.egress_rate)
        except NotFound as error:
            raise FailedPrecondition(error.message) from error

    def status(self, call: Call, host: Host) -> None:
        """There is nothing to run out of."""

    def gc(self, call: Call, host: Host) -> None:
        """Limits go with their links."""


def _read(call: Call) -> _Limits:
    config = read(call, _Config)
    limits = config.runtime_config.bandwidth or config
    for way, rate, burst in (
        ("ingress", limits.ingress_rate, limits.ingress_burst),
        ("egress", limits.egress_rate, limits.egress_burst),
    ):
        if rate < 0 or burst < 0 or (rate > 0) != (burst > 0):
            raise InvalidArgument(f"{way}Rate {rate} and {way}Burst {burst} go together: both more than 0, or neither")
        if 0 < rate < 8 or 0 < burst < 8:
            raise InvalidArgument(f"{way}Rate and {way}Burst are bits: 8 at least")
        if burst // 8 > _MAX_BURST:
            raise InvalidArgument(f"{way}Burst {burst} is more than {_MAX_BURST * 8}")
    return limits


def _host_end(call: Call, host: Host) -> str:
    """The host's end of the container's pair. Raises FailedPrecondition where the link is none of a pair."""
    with inside(call, host) as within, kernel(f"look at {call.interface}"):
        link = within.link(call.interface)
    names = {each.name for each in (call.previous.interfaces if call.previous else ()) if not each.sandbox}
    with on_host(host) as links, kernel("look for the host's end"):
        for name in names:
            other = links.find(name)
            if other is not None and other.kind == "veth" and other.index == link.lower:
                return other.name
    raise InvalidArgument(
        f"{call.interface} is not one end of a pair whose other one is the host's: its rate cannot be limited"
    )


def _unlimit(links: RouteSocket, name: str) -> None:
    link = links.find(name)
    if link is not None and links.rate(link.index) is not None:
        links.delete_rate(link.index)


def _compare(links: RouteSocket, name: str, rate: int) -> None:
    there = links.rate(links.link(name).index)
    if there != rate // 8:
        raise FailedPrecondition(f"{name} is held to {there} bytes a second, and {rate // 8} were set")
