"""The daemon's numbers in Prometheus' text format (version 0.0.4)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from intermodal_core.calls import BOUNDS, Guard, Statistics
from intermodal_core.registry import Record, Registry

__all__ = ["exposition"]

_CALLS = "intermodal_plugin_call"
_HOOKS = "intermodal_hook"
_WHAT = {_CALLS: "Calls of a plugin's method", _HOOKS: "Calls of a plugin's implementation of a hook"}


def exposition(registry: Registry) -> str:
    """All numbers now. `plugin` is an instance's KIND.NAME."""
    records = registry.records()
    calls = [
        ({"plugin": record.id, "method": method}, statistics)
        for record in records
        if isinstance(record.instance, Guard)
        for method, statistics in record.instance.statistics.items()
    ]
    hooks = [
        ({"plugin": plugin, "hook": hook}, statistics)
        for (hook, plugin), statistics in registry.hooks.statistics().items()
    ]
    lines = [*_states(records), *_measured(_CALLS, calls), *_measured(_HOOKS, hooks), *_events(registry)]
    return "\n".join(lines) + "\n"


def _states(records: list[Record]) -> Iterator[str]:
    yield from _head("intermodal_plugin_state", "gauge", "1 for the state that a plugin is in.")
    yield from (_sample("intermodal_plugin_state", {"plugin": each.id, "state": each.state}, 1) for each in records)
    ready = [record for record in records if record.state == "ready"]
    yield from _head("intermodal_plugin_serving", "gauge", "0 while the calls of a ready plugin fail at once.")
    yield from (_sample("intermodal_plugin_serving", {"plugin": each.id}, int(not each.trouble)) for each in ready)
    yield from _head("intermodal_plugin_restarts_total", "counter", "Restarts of plugins with a process of their own.")
    for record in ready:
        if record.process is not None:
            yield _sample("intermodal_plugin_restarts_total", {"plugin": record.id}, record.process.restarts)


def _measured(name: str, measured: list[tuple[dict[str, str], Statistics]]) -> Iterator[str]:
    yield from _head(f"{name}_errors_total", "counter", f"{_WHAT[name]} that failed.")
    yield from (_sample(f"{name}_errors_total", labels, each.errors) for labels, each in measured)
    yield from _head(f"{name}_seconds", "histogram", f"{_WHAT[name]}, by how long they took.")
    for labels, each in measured:
        below = 0
        for bound, count in zip((*map(str, BOUNDS), "+Inf"), each.buckets, strict=True):
            below += count
            yield _sample(f"{name}_seconds_bucket", {**labels, "le": bound}, below)
        yield _sample(f"{name}_seconds_sum", labels, round(each.seconds, 9))
        yield _sample(f"{name}_seconds_count", labels, each.calls)


def _events(registry: Registry) -> Iterator[str]:
    yield from _head("intermodal_events_published_total", "counter", "Events that were published.")
    yield _sample("intermodal_events_published_total", {}, registry.events.statistics()["published"])


def _head(name: str, kind: str, what: str) -> Iterator[str]:
    yield f"# HELP {name} {what}"
    yield f"# TYPE {name} {kind}"


def _sample(name: str, labels: Mapping[str, str], value: float) -> str:
    words = ",".join(f"{key}={json.dumps(text, ensure_ascii=False)}" for key, text in labels.items())
    return f"{name}{{{words}}} {value}" if words else f"{name} {value}"
