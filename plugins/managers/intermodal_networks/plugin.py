"""The adapter: `managers.networks`."""

from __future__ import annotations

import json

from intermodal_core.plugin import Context, NoConfig, Plugin
from intermodal_netlink.namespaces import Keeper

from intermodal_networks.manager import EVENTS
from intermodal_networks.networks import Networks

__all__ = ["NetworksManager", "plugin"]


class NetworksManager(Networks):
    """The manager's life within the daemon's. The tasks manager says who runs, once it knows."""

    def __init__(self, context: Context[NoConfig]) -> None:
        context.events.register_decoder(EVENTS, json.loads)
        self._keeper = Keeper.of(context.spawner)
        super().__init__(
            context.get("managers", "store"), context.registry, context.events, self._keeper, context.state_dir()
        )

    async def __aenter__(self) -> NetworksManager:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
        self._keeper.close()


plugin = Plugin(factory=NetworksManager, requires=("managers.store",), forked=("intermodal_netlink.namespaces",))
