"""The adapter: the CNI type `host-local`."""

from __future__ import annotations

from intermodal_core.plugin import Context, NoConfig, Plugin

from intermodal_hostlocal.hostlocal import HostLocal

__all__ = ["plugin"]


def _make(context: Context[NoConfig]) -> HostLocal:
    return HostLocal()


plugin = Plugin(factory=_make)
