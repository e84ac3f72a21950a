"""The adapter: the CNI type `ptp`."""

from __future__ import annotations

from intermodal_core.plugin import Context, NoConfig, Plugin

from intermodal_ptp.ptp import PointToPoint

__all__ = ["plugin"]


def _make(context: Context[NoConfig]) -> PointToPoint:
    return PointToPoint()


plugin = Plugin(factory=_make)
