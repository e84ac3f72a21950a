"""A link for one VLAN of one of the host's."""

from __future__ import annotations

import struct

from intermodal_cni.sublinks import SubConfig, SubLink
from intermodal_core.contracts.cni import Call
from intermodal_core.errors import InvalidArgument
from intermodal_netlink.route import kind
from intermodal_netlink.wire import attribute

__all__ = ["Vlan"]


class _Config(SubConfig, rename={"vlan_id": "vlanId", "link_in_container": "linkInContainer"}):
    vlan_id: int = 0


class Vlan(SubLink[_Config]):
    """Implements `intermodal_core.contracts.cni.CniType`."""

    kind = "vlan"
    config = _Config

    def info(self, config: _Config, call: Call) -> tuple[bytes, str]:
        """The VLAN's number."""
        if not config.master:
            raise InvalidArgument("a VLAN needs the link that it is of: name it in master")
        if not 0 < config.vlan_id < 4095:
            raise InvalidArgument(f"vlanId {config.vlan_id} is none: write 1 to 4094")
        return kind("vlan", attribute(1, struct.pack("=H", config.vlan_id))), ""
