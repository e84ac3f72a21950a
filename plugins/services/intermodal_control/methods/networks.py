"""Methods about networks."""

from __future__ import annotations

from typing import Any

from intermodal_core.contracts.managers.networks import Networks
from intermodal_core.contracts.networks import NetworkSpec

from intermodal_control.methods.room import Nothing, Params, Room
from intermodal_control.server import Call, Method

__all__ = ["NetworkMethods"]


class NamedNetwork(Params):
    """`networks.inspect`, `networks.remove`."""

    network: str


class CreateNetwork(Params):
    """`networks.create`."""

    spec: NetworkSpec


class ConnectNetwork(NamedNetwork):
    """`networks.connect`: with these addresses, if any are given."""

    container: str
    addresses: tuple[str, ...] = ()


class DisconnectNetwork(NamedNetwork):
    """`networks.disconnect`."""

    container: str


class NetworkMethods(Room):
    """`networks.*`."""

    @property
    def _networks(self) -> Networks:
        networks: Networks = self._context.get("managers", "networks")
        return networks

    def table(self) -> dict[str, Method]:
        """The rows."""
        return {
            "networks.list": Method(self._list, cancel=True),
            "networks.inspect": Method(self._inspect, cancel=True),
            "networks.create": Method(self._create),
            "networks.remove": Method(self._remove),
            "networks.prune": Method(self._prune),
            "networks.connect": Method(self._connect),
            "networks.disconnect": Method(self._disconnect),
        }

    async def _list(self, call: Call) -> Any:
        call.params(Nothing)
        users: dict[str, int] = {}
        for attachment in await self._networks.attachments():
            users[attachment.network] = users.get(attachment.network, 0) + 1
        return [
            {
                "name": view.name,
                "driver": view.driver,
                "subnets": view.subnets,
                "own": view.own,
                "source": view.source,
                "error": view.error,
                "attachments": users.get(view.name, 0),
            }
            for view in await self._networks.views()
        ]

    async def _inspect(self, call: Call) -> Any:
        return await self._networks.inspect(call.params(NamedNetwork).network)

    async def _create(self, call: Call) -> Any:
        view = await self._networks.create(call.params(CreateNetwork).spec)
        return {"name": view.name, "subnets": view.subnets}

    async def _remove(self, call: Call) -> None:
        await self._networks.remove(call.params(NamedNetwork).network)

    async def _prune(self, call: Call) -> Any:
        call.params(Nothing)
        return await self._networks.prune(await self._containers.networks_wanted())

    async def _connect(self, call: Call) -> Any:
        params = call.params(ConnectNetwork)
        return await self._containers.connect(call.scope, params.container, params.network, params.addresses)

    async def _disconnect(self, call: Call) -> None:
        params = call.params(DisconnectNetwork)
        await self._containers.disconnect(call.scope, params.container, params.network)
