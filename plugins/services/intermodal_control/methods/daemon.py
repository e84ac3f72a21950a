"""Methods about the daemon itself and its plugins."""

from __future__ import annotations

import os
from typing import Any

from intermodal_core import __version__

from intermodal_control.methods.room import Nothing, Room
from intermodal_control.server import Call, Method

__all__ = ["DaemonMethods"]


class DaemonMethods(Room):
    """`version` and `plugins.*`."""

    def table(self) -> dict[str, Method]:
        """The rows."""
        return {
            "version": Method(self._version),
            "plugins.list": Method(self._plugins),
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

    async def _plugins(self, call: Call) -> Any:
        call.params(Nothing)
        return [
            {
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
            }
            for record in self._registry.records()
        ]
