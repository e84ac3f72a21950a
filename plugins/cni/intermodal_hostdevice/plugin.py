"""The adapter: the CNI type `host-device`."""

from __future__ import annotations

from intermodal_core.plugin import Context, NoConfig, Plugin

from intermodal_hostdevice.hostdevice import HostDevice

__all__ = ["plugin"]


def _make(context: Context[NoConfig]) -> HostDevice:
    return HostDevice()


plugin = Plugin(factory=_make)
