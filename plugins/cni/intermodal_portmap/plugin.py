"""The adapter: the CNI type `portmap`."""

from __future__ import annotations

from intermodal_core.plugin import Context, NoConfig, Plugin

from intermodal_portmap.portmap import PortMap

__all__ = ["plugin"]


def _make(context: Context[NoConfig]) -> PortMap:
    return PortMap()


plugin = Plugin(factory=_make)
