"""The adapter: the CNI type `vlan`."""

from __future__ import annotations

from intermodal_core.plugin import Context, NoConfig, Plugin

from intermodal_vlan.vlan import Vlan

__all__ = ["plugin"]


def _make(context: Context[NoConfig]) -> Vlan:
    return Vlan()


plugin = Plugin(factory=_make)
