"""The adapter: the CNI type `ipvlan`."""

from __future__ import annotations

from intermodal_core.plugin import Context, NoConfig, Plugin

from intermodal_ipvlan.ipvlan import Ipvlan

__all__ = ["plugin"]


def _make(context: Context[NoConfig]) -> Ipvlan:
    return Ipvlan()


plugin = Plugin(factory=_make)
