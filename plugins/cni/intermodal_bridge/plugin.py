"""The adapter: the CNI type `bridge`."""

from __future__ import annotations

from intermodal_core.plugin import Context, NoConfig, Plugin

from intermodal_bridge.bridge import Bridge

__all__ = ["plugin"]


def _make(context: Context[NoConfig]) -> Bridge:
    return Bridge()


plugin = Plugin(factory=_make)
