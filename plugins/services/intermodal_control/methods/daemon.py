"""Methods about the daemon itself."""

from __future__ import annotations

import os
from typing import Any

from intermodal_core import __version__

from intermodal_control.methods.room import Nothing, Room
from intermodal_control.server import Call, Method

__all__ = ["DaemonMethods"]


class DaemonMethods(Room):
    """`version`."""

    def table(self) -> dict[str, Method]:
        """The rows."""
        return {
            "version": Method(self._version),
        }

    async def _version(self, call: Call) -> Any:
        call.params(Nothing)
        core = self._registry.config.core
        return {
            "version": __version__,
            "pid": os.getpid(),
            "address": core.address,
            "root": core.root,
            "state": core.state,
        }
