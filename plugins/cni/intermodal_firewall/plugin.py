"""The adapter: the CNI type `firewall`."""

from __future__ import annotations

from intermodal_core.plugin import Context, NoConfig, Plugin

from intermodal_firewall.firewall import Firewall

__all__ = ["plugin"]


def _make(context: Context[NoConfig]) -> Firewall:
    return Firewall()


plugin = Plugin(factory=_make)
