"""A CNI type that sets how far the container's packets go: the default time to live of IPv4 in its namespace.

    {"type": "sample", "ttl": 32}

It makes no interface, so it comes after a type that does, or alone.
"""

from __future__ import annotations

from contextlib import suppress

import msgspec
from intermodal_core.contracts.cni import Call, Host, Result
from intermodal_core.errors import FailedPrecondition, InvalidArgument, NotFound

__all__ = ["SampleType"]

_NAME, _DEFAULT = "ipv4/ip_default_ttl", "64"


class _Config(msgspec.Struct):
    """The type's own keys; the others of a configuration are the network's."""

    ttl: int


class SampleType:
    """Implements `intermodal_core.contracts.cni.CniType`."""

    def add(self, call: Call, host: Host) -> Result:
        """[P2] Set it, and give on what the chain has come to."""
        ttl = _ttl(call)
        host.sysctl(call.netns, _NAME, ttl)
        return call.previous or Result()

    def delete(self, call: Call, host: Host) -> None:
        """[P3] Put the kernel's own back, where there is still a namespace."""
        if call.netns:
            with suppress(NotFound):
                host.sysctl(call.netns, _NAME, _DEFAULT)

    def check(self, call: Call, host: Host) -> None:
        """[P4] Look whether it is as it was set."""
        wanted, found = _ttl(call), host.sysctl(call.netns, _NAME).strip()
        if found != wanted:
            raise FailedPrecondition(f"the time to live in {call.netns} is {found}, not {wanted}: attach it again")

    def status(self, call: Call, host: Host) -> None:
        """[P5] It can always be set."""
        _ttl(call)

    def gc(self, call: Call, host: Host) -> None:
        """[P6] What is set goes with the namespace."""


def _ttl(call: Call) -> str:
    try:
        ttl = msgspec.convert(call.config, _Config).ttl
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"network {call.config.get('name')}, type sample: {error}") from None
    if not 1 <= ttl <= 255:
        raise InvalidArgument(
            f"network {call.config.get('name')}, type sample: ttl is {ttl}, and 1 to 255 are possible"
        )
    return str(ttl)
