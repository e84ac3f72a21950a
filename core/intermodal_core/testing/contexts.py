"""The context that a plugin's factory gets, without a daemon around it: for tests of the adapter."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from intermodal_core.config import load
from intermodal_core.errors import FailedPrecondition
from intermodal_core.plugin import Context
from intermodal_core.registry import Registry

__all__ = ["context_of"]

C = TypeVar("C", bound=msgspec.Struct)


class _Provided(Registry):
    """A registry of given objects, which were made elsewhere."""

    def __init__(self, top: Path, address: str, provided: Mapping[str, Any], spawner: Any, events: Any) -> None:
        places = {"root": str(top / "daemon-root"), "state": str(top / "daemon-state"), "address": address}
        super().__init__([], [], load(None, places), events, spawner, address)
        self._provided = provided

    def instance(self, kind: str, name: str = "") -> Any:
        """What the test provides for `KIND.NAME`, or for `KIND`."""
        asked = f"{kind}.{name}" if name else kind
        if asked not in self._provided:
            raise FailedPrecondition(f"the test provides no {asked}: pass it to context_of(provided=...)")
        return self._provided[asked]


def context_of(
    kind: str,
    name: str,
    config: C,
    top: Path,
    *,
    spawner: Any = None,
    events: Any = None,
    provided: Mapping[str, Any] | None = None,
) -> Context[C]:
    """A context for the instance `KIND.NAME` with its directories and the daemon's address below `top`.

    `provided` is what `context.get` gives, by "KIND.NAME" or "KIND". A plugin that uses the spawner or the bus gets the test's:
    `intermodal_core.spawner.Spawner()`, `intermodal_core.events.EventBus(path)`.
    """
    top = top.absolute()
    address = str(top / "daemon.sock")
    return Context(
        kind=kind,
        name=name,
        config=config,
        root=top / "root",
        state=top / "state",
        address=address,
        log=logging.getLogger(f"intermodal.{kind}.{name}"),
        events=events,
        spawner=spawner,
        registry=_Provided(top, address, provided or {}, spawner, events),
    )
