"""The adapter: the CNI type `macvlan`."""

from __future__ import annotations

from intermodal_core.plugin import Context, NoConfig, Plugin

from intermodal_macvlan.macvlan import Macvlan

__all__ = ["plugin"]


def _make(context: Context[NoConfig]) -> Macvlan:
    return Macvlan()


plugin = Plugin(factory=_make)
