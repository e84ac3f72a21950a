"""Runtimes as an operator sees them: what each is on this machine, and which containers stay with it."""

from __future__ import annotations

from collections import defaultdict

import msgspec
from intermodal_core.contracts.managers.store import Choice, Container, Scope, Store
from intermodal_core.contracts.managers.tasks import RuntimeView, Tasks
from intermodal_core.contracts.runtimes import RuntimeInfo
from intermodal_core.errors import IntermodalError
from intermodal_core.registry import Record, Registry

__all__ = ["runtimes"]


async def runtimes(registry: Registry, store: Store, tasks: Tasks) -> list[RuntimeView]:
    """Every instance, made ready if it can be, and what containers are pinned to that the config has no more."""
    pinned: dict[str, list[Container]] = defaultdict(list)
    running: set[tuple[str, str]] = set()
    for namespace in await store.namespaces.select():
        scope = Scope(namespace.name)
        for container in await store.containers.select(scope):
            pinned[container.choice.instance if container.choice else container.runtime].append(container)
        running |= {(scope.namespace, task.id) for task in await tasks.select(scope) if task.status != "stopped"}
    views = []
    for record in registry.records("runtimes"):
        await registry.load(record)
        views.append(await _view(record, store, pinned.pop(record.name, []), running))
    for name, containers in sorted(pinned.items()):
        choice = containers[0].choice or Choice(name)
        kept = RuntimeView(
            name, choice.plugin, "pinned", "no section of the config describes it; its containers keep it"
        )
        kept = msgspec.structs.replace(kept, binary=choice.binary, version=choice.version)
        views.append(_holding(kept, containers, running))
    return views


async def _view(
    record: Record, store: Store, containers: list[Container], running: set[tuple[str, str]]
) -> RuntimeView:
    view = RuntimeView(record.name, record.plugin_id, record.state, record.why_not() if record.reason else "")
    view = _holding(view, containers, running)
    if record.state != "ready":
        return view
    try:
        info: RuntimeInfo = await record.instance.info()
        now = await store.pin_to(record.name)
    except IntermodalError as error:
        return msgspec.structs.replace(view, reason=str(error))
    name, why = await store.choose("runtime", "")
    other = [
        f"{each.namespace}/{each.id}"
        for each in containers
        if each.choice and (each.choice.options, each.choice.version) not in ((now.options, now.version), (None, ""))
    ]
    return msgspec.structs.replace(
        view,
        binary=info.binary,
        version=info.version,
        default=why if name == record.name else "",
        otherwise=tuple(other),
    )


def _holding(view: RuntimeView, containers: list[Container], running: set[tuple[str, str]]) -> RuntimeView:
    alive = sum((each.namespace, each.id) in running for each in containers)
    return msgspec.structs.replace(view, containers=len(containers), running=alive)
