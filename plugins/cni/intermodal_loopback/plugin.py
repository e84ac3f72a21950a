"""The adapter: the CNI type `loopback`."""

from __future__ import annotations

from intermodal_core.plugin import Context, NoConfig, Plugin

from intermodal_loopback.loopback import Loopback

__all__ = ["plugin"]


def _make(context: Context[NoConfig]) -> Loopback:
    return Loopback()


plugin = Plugin(factory=_make)
