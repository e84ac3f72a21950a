"""The adapter: the CNI type `bandwidth`."""

from __future__ import annotations

from intermodal_core.plugin import Context, NoConfig, Plugin

from intermodal_bandwidth.bandwidth import Bandwidth

__all__ = ["plugin"]


def _make(context: Context[NoConfig]) -> Bandwidth:
    return Bandwidth()


plugin = Plugin(factory=_make)
