"""The adapter: `managers.store`."""

from __future__ import annotations

from intermodal_core.plugin import Context, NoConfig, Plugin

from intermodal_store.decoders import register
from intermodal_store.store import Store

__all__ = ["plugin"]


def _make(context: Context[NoConfig]) -> Store:
    register(context.events)
    return Store(
        context.get("metadata"),
        context.get("content"),
        context.get("managers", "policy"),
        context.registry,
        context.events,
    )


plugin = Plugin(factory=_make, requires=("metadata", "content", "managers.policy"))
