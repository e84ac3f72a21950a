"""The adapter: `managers.sinks`, which delivers events to the sinks that the config names."""

from __future__ import annotations

import logging
from functools import partial

import msgspec
from intermodal_core.background import Background
from intermodal_core.contracts.managers.sinks import SinkView
from intermodal_core.contracts.metadata import Table, Transaction
from intermodal_core.plugin import Context, NoConfig, Plugin

from intermodal_sinks.follower import Follower

__all__ = ["Sinks", "plugin"]

log = logging.getLogger("intermodal.sinks")


class _Row(msgspec.Struct, frozen=True):
    name: str
    position: int


_SINKS: Table[_Row] = Table("sinks", _Row, ("name",))


class Sinks:
    """Implements `intermodal_core.contracts.managers.sinks.Sinks`.

    An installed sink without a section in the config is not used, and not even imported.
    """

    def __init__(self, context: Context[NoConfig]) -> None:
        self._registry = context.registry
        self._bus = context.events
        self._metadata = context.get("metadata")
        self._metadata.declare(_SINKS)
        self._background = Background(log)
        self._followers: dict[str, Follower] = {}

    async def __aenter__(self) -> Sinks:
        """Begin to deliver, from where each was left."""
        configured = self._registry.config.instances()
        rows = await self._metadata.read(lambda tx: {row.name: row.position for row in tx.scan(_SINKS)})
        for record in self._registry.records("event_sinks"):
            if (record.kind, record.name) in configured and record.state != "disabled":
                self._followers[record.name] = follower = Follower(
                    record.name,
                    partial(self._registry.require, "event_sinks", record.name),
                    self._bus,
                    rows.get(record.name),
                    partial(self._remember, record.name),
                )
                self._background.begin(follower.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop; what was not delivered is at the next start."""
        await self._background.cancel()

    def views(self) -> list[SinkView]:
        """Every sink in use, by name."""
        return [follower.view() for follower in self._followers.values()]

    async def _remember(self, name: str, position: int) -> None:
        def put(tx: Transaction) -> None:
            tx.put(_SINKS, _Row(name, position))

        await self._metadata.write(put)


plugin = Plugin(factory=Sinks, requires=("metadata",))
