"""The adapter: the CNI type `tuning`."""

from __future__ import annotations

from intermodal_core.plugin import Context, NoConfig, Plugin

from intermodal_tuning.tuning import Tuning

__all__ = ["plugin"]


def _make(context: Context[NoConfig]) -> Tuning:
    return Tuning()


plugin = Plugin(factory=_make)
