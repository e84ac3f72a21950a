"""A link that shares the hardware address of one of the host's."""

from __future__ import annotations

import struct

from intermodal_cni.sublinks import SubConfig, SubLink
from intermodal_core.contracts.cni import Call
from intermodal_core.errors import InvalidArgument
from intermodal_netlink.route import kind
from intermodal_netlink.wire import attribute

__all__ = ["Ipvlan"]

_MODES = {"l2": 0, "l3": 1, "l3s": 2}


class _Config(SubConfig, rename="camel"):
    mode: str = "l2"


class Ipvlan(SubLink[_Config]):
    """Implements `intermodal_core.contracts.cni.CniType`."""

    kind = "ipvlan"
    config = _Config

    def info(self, config: _Config, call: Call) -> tuple[bytes, str]:
        """The mode."""
        mode = _MODES.get(config.mode)
        if mode is None:
            raise InvalidArgument(f"mode {config.mode!r} is none of ipvlan: write one of {', '.join(_MODES)}")
        return kind("ipvlan", attribute(1, struct.pack("=H", mode))), ""
