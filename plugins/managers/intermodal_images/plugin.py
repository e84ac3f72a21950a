"""The adapter: `managers.images`."""

from __future__ import annotations

from intermodal_core.plugin import Context, NoConfig, Plugin

from intermodal_images.manager import ImagesManager

__all__ = ["plugin"]


def _make(context: Context[NoConfig]) -> ImagesManager:
    return ImagesManager(context.get("managers", "store"), context.registry)


plugin = Plugin(factory=_make, requires=("managers.store",))
