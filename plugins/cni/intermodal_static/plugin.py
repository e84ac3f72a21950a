"""The adapter: the CNI type `static`."""

from __future__ import annotations

from intermodal_core.plugin import Context, NoConfig, Plugin

from intermodal_static.static import Static

__all__ = ["plugin"]


def _make(context: Context[NoConfig]) -> Static:
    return Static()


plugin = Plugin(factory=_make)
