"""The adapter: `managers.policy`, which owns the table `[defaults]`."""

from __future__ import annotations

from intermodal_core.plugin import Context, NoConfig, Plugin

from intermodal_policy.policy import Defaults, Policy

__all__ = ["plugin"]


def _make(context: Context[NoConfig]) -> Policy:
    registry = context.registry

    def names(kind: str) -> list[str]:
        return [record.name for record in registry.records(kind) if record.state != "disabled"]

    return Policy(registry.config.table("defaults", Defaults), names, registry.config.where(("defaults",)))


plugin = Plugin(factory=_make, tables={"defaults": Defaults})
