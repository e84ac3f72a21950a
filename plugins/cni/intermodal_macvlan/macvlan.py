"""A link with a hardware address of its own on one of the host's."""

from __future__ import annotations

import struct

import msgspec
from intermodal_cni.sublinks import SubConfig, SubLink
from intermodal_core.contracts.cni import Call
from intermodal_core.errors import InvalidArgument
from intermodal_netlink.route import kind
from intermodal_netlink.wire import attribute

__all__ = ["Macvlan"]

_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}


class _RuntimeConfig(msgspec.Struct):
    mac: str = ""


class _Config(SubConfig, rename="camel"):
    mode: str = "bridge"
    mac: str = ""
    bcqueuelen: int = 0
    runtime_config: _RuntimeConfig = msgspec.field(default_factory=_RuntimeConfig)


class Macvlan(SubLink[_Config]):
    """Implements `intermodal_core.contracts.cni.CniType`."""

    kind = "macvlan"
    config = _Config

    def info(self, config: _Config, call: Call) -> tuple[bytes, str]:
        """Mode, and the address that the runtime asks for."""
        mode = _MODES.get(config.mode)
        if mode is None:
            raise InvalidArgument(f"mode {config.mode!r} is none of macvlan: write one of {', '.join(_MODES)}")
        data = [attribute(1, struct.pack("=I", mode))]
        if config.bcqueuelen:
            data.append(attribute(7, struct.pack("=I", config.bcqueuelen)))
        return kind("macvlan", *data), config.runtime_config.mac or call.args.get("MAC", "") or config.mac
