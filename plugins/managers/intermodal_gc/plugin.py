"""The adapter: `managers.gc`, which decides when the store's garbage is collected."""

from __future__ import annotations

from typing import Annotated

import msgspec
from intermodal_core.plugin import Context, Plugin

from intermodal_gc.schedule import Schedule

__all__ = ["Config", "plugin"]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of `[managers.gc]`."""

    delay: Annotated[
        float, msgspec.Meta(ge=0, description="Seconds from a removal until what only it needed is collected.")
    ] = 1.0
    grace: Annotated[
        float,
        msgspec.Meta(
            ge=0, description="Seconds that what nothing refers to, nor any lease, is kept after its last change."
        ),
    ] = 300.0
    interval: Annotated[
        float, msgspec.Meta(gt=0, description="Seconds between collections while things are written.")
    ] = 3600.0


class Gc:
    """The schedule's life within the daemon's."""

    def __init__(self, context: Context[Config]) -> None:
        config = context.config
        collector = context.get("managers", "store").collector
        self._schedule = Schedule(collector, config.delay, config.grace, config.interval)

    async def __aenter__(self) -> Gc:
        self._schedule.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._schedule.stop()


plugin = Plugin(factory=Gc, config=Config, requires=("managers.store",))
