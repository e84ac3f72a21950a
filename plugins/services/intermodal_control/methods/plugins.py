"""Methods about plugins: what there is, what became of each and why, and changes while the daemon serves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from intermodal_core.calls import Guard
from intermodal_core.config_types import nearest
from intermodal_core.contracts.managers.policy import KINDS, Explained, Policy
from intermodal_core.errors import FailedPrecondition, InvalidArgument, NotFound
from intermodal_core.registry import Record

from intermodal_control.methods.room import Nothing, Params, Room
from intermodal_control.server import Call, Method

if TYPE_CHECKING:
    from intermodal_core.isolation import Process

__all__ = ["PluginMethods"]


class NamedPlugin(Params):
    """An instance by KIND.NAME, or by NAME alone where one kind has it."""

    plugin: str


class PluginMethods(Room):
    """`plugins.*`."""

    def table(self) -> dict[str, Method]:
        """The rows."""
        return {
            "plugins.list": Method(self._list),
            "plugins.inspect": Method(self._inspect),
            "plugins.why": Method(self._why),
            "plugins.graph": Method(self._graph),
            "plugins.rescan": Method(self._rescan),
            "plugins.reload": Method(self._reload),
        }

    async def _list(self, call: Call) -> Any:
        call.params(Nothing)
        return [_row(record) for record in self._registry.records()]

    async def _inspect(self, call: Call) -> Any:
        record = self._named(call.params(NamedPlugin).plugin)
        await self._registry.import_plugins([record])  # what it says of itself is known then, and nothing of it runs
        plugin, instance = record.plugin, record.instance
        core = self._registry.config.core
        return {
            **_row(record),
            "entry_point": record.found.value if record.found else "",
            "version": record.found.version if record.found else "",
            "contract": plugin.contract if plugin else 0,
            "requires": plugin.requires if plugin else (),
            "tables": sorted(plugin.tables) if plugin else (),
            "config": record.section.where(),
            "options": record.options,
            "root": f"{core.root}/{record.kind}/{record.name}",
            "state_directory": f"{core.state}/{record.kind}/{record.name}",
            "calls": {
                method: {
                    "calls": each.calls,
                    "errors": each.errors,
                    "seconds": round(each.seconds, 6),
                    "longest": round(each.longest, 6),
                }
                for method, each in sorted(instance.statistics.items())
                if each.calls
            }
            if isinstance(instance, Guard)
            else {},
        }

    async def _why(self, call: Call) -> Any:
        """The row; by which paths it is needed; what keeps it from being ready, through what it requires; who chose it."""
        record = self._named(call.params(NamedPlugin).plugin)
        return {
            **_row(record),
            "needed_by": self._shortest(record),
            "broken": self._below(record, ()),
            "chosen": await self._chosen(record, call.scope.namespace),
        }

    async def _chosen(self, record: Record, namespace: str) -> list[str]:
        """Who chooses it where nobody names anything, and which rules would."""
        sentences = []
        if self._registry.kinds[record.kind].single and record.state in ("available", "ready"):
            sentences.append(f"the one of the kind {record.kind}, of which one is in use: no other is enabled")
        for explained in await self._explained(namespace):
            if KINDS.get(explained.subject) != record.kind:
                continue
            if explained.value == record.name:
                sentences.append(f"the default {explained.subject} of the namespace {namespace}: {explained.why}")
            sentences += [
                f"{each.source} chooses it where it matches"
                for each in explained.considered
                if each.says == record.name and not each.applies
            ]
        return sentences

    async def _graph(self, call: Call) -> Any:
        """What requires what, of the plugins that are known so far, and what the policy chooses where nobody names anything."""
        call.params(Nothing)
        nodes = [{"id": record.id, "kind": record.kind, "state": record.state} for record in self._registry.records()]
        edges = [
            {"from": record.id, "to": other.id, "how": requirement}
            for record in self._registry.records()
            for requirement, other in self._required(record)
        ]
        chosen = await self._explained(call.scope.namespace)
        edges += [
            {"from": "managers.policy", "to": f"{KINDS[each.subject]}.{each.value}", "how": "default"}
            for each in chosen
            if each.subject in KINDS and self._registry.get(KINDS[each.subject], each.value)
        ]
        return {"nodes": nodes, "edges": edges}

    async def _rescan(self, call: Call) -> Any:
        call.params(Nothing)
        return await self._registry.changes.rescan()

    async def _reload(self, call: Call) -> Any:
        record = self._named(call.params(NamedPlugin).plugin)
        return await self._registry.changes.reload(record.kind, record.name)

    # What is known.

    def _named(self, name: str) -> Record:
        records = {record.id: record for record in self._registry.records()}
        if name in records:
            return records[name]
        found = [id for id, record in records.items() if record.name == name]
        if len(found) == 1:
            return records[found[0]]
        if found:
            raise InvalidArgument(f"{name} may be any of {', '.join(found)}: name one")
        names = {*records, *(record.name for record in records.values())}
        raise NotFound(f"there is no plugin {name}; {nearest(name, names)}")

    def _required(self, record: Record) -> Iterator[tuple[str, Record]]:
        """What a plugin that was imported requires, as it says it, and which instance that is."""
        for requirement in record.plugin.requires if record.plugin else ():
            kind, _, name = requirement.partition(".")
            if name:
                found = self._registry.get(kind, name)
                yield from [(requirement, found)] if found else []
            elif kind in self._registry.kinds and self._registry.kinds[kind].single:
                try:
                    yield requirement, self._registry.chosen(kind)
                except FailedPrecondition:
                    continue  # none, or more than one: the record that requires it says so
            else:
                yield from ((requirement, other) for other in self._registry.records(kind))

    def _shortest(self, record: Record) -> list[list[str]]:
        """Of the paths that lead to it, the shortest from each beginning."""
        found: dict[str, list[str]] = {}
        for above in sorted(self._above(record, ()), key=len):
            if above:
                found.setdefault(above[0], [*above, record.id])
        return [found[top] for top in sorted(found)]

    def _above(self, record: Record, path: tuple[str, ...]) -> list[list[str]]:
        """The paths of requirements that lead to it, each from one that is made ready at start."""
        if record.id in path:
            return []
        users = [other for other in self._registry.records() for _, each in self._required(other) if each is record]
        paths = [[*above, user.id] for user in users for above in self._above(user, (*path, record.id))]
        return paths or [[]]

    def _below(self, record: Record, path: tuple[str, ...]) -> list[str]:
        """The shortest story of what keeps it from being ready: itself, then what it requires that is not ready either."""
        if record.state in ("ready", "available") or record.id in path:
            return []
        for _, other in self._required(record):
            if story := self._below(other, (*path, record.id)):
                return [record.id, *story]
        return [record.why_not()]

    async def _explained(self, namespace: str) -> list[Explained]:
        record = self._registry.get("managers", "policy")
        if record is None or record.state != "ready":
            return []
        policy: Policy = record.instance
        return await policy.explain(namespace)


def _process(process: Process) -> dict[str, Any]:
    return {"pid": process.pid, "restarts": process.restarts, "last_error": process.last_error}


def _row(record: Record) -> dict[str, Any]:
    process = record.process
    return {
        "kind": record.kind,
        "name": record.name,
        "plugin": record.plugin_id,
        "state": record.state,
        "code": record.code,
        "reason": record.reason,
        "remedy": record.remedy,
        "distribution": record.found.distribution if record.found else "",
        "capabilities": record.plugin.capabilities if record.plugin else (),
        "annotations": record.plugin.annotations if record.plugin else (),
        "exports": record.exports,
        "seconds": round(record.seconds, 4),
        "trouble": record.trouble if record.state == "ready" else "",
        "process": None if process is None else _process(process),
    }
