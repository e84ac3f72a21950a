"""Finds networks by name: an instance of the kind `networks`, or a list of one that has several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from intermodal_core.contracts.networks import NetworkView
from intermodal_core.errors import FailedPrecondition, IntermodalError, NotFound
from intermodal_core.registry import Registry

__all__ = ["Directory", "Target"]

_KIND = "networks"
#: The first list of the first instance that has lists, where none is called so.
DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Target:
    """A network: its name, the instance that has it, the list's name there (""), and whether it needs a namespace."""

    name: str
    instance: str
    list: str
    netns: bool


class Directory:
    """The networks of a registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def backend(self, instance: str) -> Any:
        """The instance, made ready if need be."""
        return await self._registry.require(_KIND, instance)

    async def find(self, name: str) -> Target:
        """The network of that name. Raises NotFound naming those there are."""
        records = {record.name: record for record in self._registry.records(_KIND)}
        if name in records:
            backend = await self.backend(name)
            capabilities = self._capabilities(name)
            if "lists" not in capabilities:
                return Target(name, name, "", "netns" in capabilities)
            views: tuple[NetworkView, ...] = await backend.views()
            first = next((view for view in views if not view.error), None)
            if first is None:
                why = views[0].error if views else "it has none"
                raise FailedPrecondition(f"{_KIND}.{name} has no network to use: {why}")
            return Target(first.name, name, first.name, "netns" in capabilities)
        listed = await self.listed()
        if name == DEFAULT and listed and not any(view.name == DEFAULT for _, view in listed):
            return await self.find(listed[0][0])
        for instance, view in listed:
            if view.name == name:
                if view.error:
                    raise FailedPrecondition(f"the network {name} cannot be used: {view.error}")
                return Target(name, instance, name, "netns" in self._capabilities(instance))
        known = ", ".join([*(view.name for _, view in listed), *records])
        raise NotFound(f"there is no network {name}; there are: {known}")

    async def listed(self) -> list[tuple[str, NetworkView]]:
        """The lists of all instances that have several."""
        found = []
        for instance in await self.with_lists():
            found += [(instance, view) for view in await (await self.backend(instance)).views()]
        return found

    async def with_lists(self) -> list[str]:
        """The instances that have several networks and can be used."""
        found = []
        for record in self._registry.records(_KIND):
            if record.state == "disabled":
                continue
            try:
                await self.backend(record.name)
            except IntermodalError:
                continue  # `imod plugins ls` says why
            if "lists" in self._capabilities(record.name):
                found.append(record.name)
        return found

    async def views(self) -> list[NetworkView]:
        """Every network: those with lists first, the default one at the top."""
        listed = [view for _, view in await self.listed()]  # which makes known who has lists
        plain = [
            NetworkView(record.name, record.plugin_id)
            for record in self._registry.records(_KIND)
            if record.state != "disabled" and "lists" not in self._capabilities(record.name)
        ]
        return listed + plain

    def _capabilities(self, instance: str) -> tuple[str, ...]:
        plugin = self._registry.find(_KIND, instance).plugin
        return tuple(plugin.capabilities) if plugin else ()
