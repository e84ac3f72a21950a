"""The adapter: `services.control`, the socket of `imod`, beside the daemon's main one."""

from __future__ import annotations

from pathlib import Path

from intermodal_core.plugin import Context, NoConfig, Plugin

from intermodal_control.methods import methods
from intermodal_control.server import Server

__all__ = ["ControlService", "plugin"]


class ControlService:
    """The server's life within the daemon's."""

    def __init__(self, context: Context[NoConfig]) -> None:
        self._server = Server(methods(context), context.registry.idle.busy)
        self._address = Path(f"{context.address}.control")
        self._core = context.registry.config.core

    async def __aenter__(self) -> ControlService:
        core = self._core
        self._server.listen(self._address, int(core.socket_mode, 8), core.socket_owner, core.socket_group)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()


# The kind, not its members by name: an operator whose manager is broken asks here what is wrong with it.
plugin = Plugin(factory=ControlService, requires=("managers",))
