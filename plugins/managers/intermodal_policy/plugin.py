"""The adapter: `managers.policy`, which owns the tables `[defaults]` and `[[rules]]`."""

from __future__ import annotations

from intermodal_core.plugin import Context, NoConfig, Plugin

from intermodal_policy.policy import Policy
from intermodal_policy.rules import Defaults, Rule, check

__all__ = ["plugin"]


def _make(context: Context[NoConfig]) -> Policy:
    registry = context.registry

    def plugins(kind: str) -> dict[str, str]:
        return {record.name: record.plugin_id for record in registry.records(kind) if record.state != "disabled"}

    return Policy(lambda: registry.config, plugins)


plugin = Plugin(
    factory=_make,
    tables={"defaults": Defaults, "rules": list[Rule]},
    live=("defaults", "rules"),
    check=check,
)
