"""The networks themselves: listed, made and removed."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from intermodal_core.contracts.networks import NetworkSpec, NetworkView
from intermodal_core.errors import FailedPrecondition, IntermodalError, NotFound

from intermodal_networks.manager import Attachments, log

__all__ = ["Networks"]


class Networks(Attachments):
    """Implements `intermodal_core.contracts.managers.networks.Networks`."""

    async def views(self) -> list[NetworkView]:
        """All networks, the default one first."""
        return await self._directory.views()

    async def inspect(self, network: str) -> dict[str, Any]:
        """Everything known of one."""
        for view in await self.views():
            if view.name == network:
                shown: dict[str, Any] = msgspec.to_builtins(view)
                shown["document"] = json.loads(view.document)
                shown["attachments"] = msgspec.to_builtins(await self.attachments(network))
                return shown
        raise NotFound(f"there is no network {network}")

    async def create(self, spec: NetworkSpec) -> NetworkView:
        """Make a network in the first instance that has lists."""
        if spec.name in {view.name for view in await self._directory.views()}:
            # Said here too, since names of instances are taken as well.
            raise FailedPrecondition(f"there is a network {spec.name} already: choose another name")
        instances = await self._directory.with_lists()
        if not instances:
            raise FailedPrecondition("no plugin that can make networks is ready: see imod plugins ls")
        backend = await self._directory.backend(instances[0])
        view: NetworkView = await backend.create(spec)
        return view

    async def remove(self, network: str) -> None:
        """Remove a network that was made here."""
        target = await self._directory.find(network)
        if target.list == "" or target.name != network:
            raise FailedPrecondition(f"the network {network} is not one that was made here")
        users = [view.container for view in await self.attachments(network)]
        if users:
            raise FailedPrecondition(
                f"the network {network} is in use by {', '.join(users[:5])}: disconnect them first"
            )
        async with self._gate.alone():
            await (await self._directory.backend(target.instance)).remove(network)

    async def prune(self, wanted: set[str]) -> list[str]:
        """Remove those made here that nobody is in, but for those in `wanted` and the defaults."""
        removed = []
        await self.collect()
        for instance in await self._directory.with_lists():
            views = await (await self._directory.backend(instance)).views()
            for view in views[1:]:
                if view.own and not view.error and view.name not in wanted and not await self.attachments(view.name):
                    try:
                        await self.remove(view.name)
                    except IntermodalError as error:
                        log.warning("the network %s stays: %s", view.name, error)
                    else:
                        removed.append(view.name)
        return removed
