"""The context that a plugin's factory gets, without a daemon around it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from intermodal_core.plugin import Context

C = TypeVar("C", bound=msgspec.Struct)


def context_of(kind: str, name: str, config: C, top: Path, spawner: Any = None) -> Context[C]:
    """A context with its directories below `top`; the plugin has no use for the bus and the registry."""
    nothing: Any = None
    return Context(
        kind=kind,
        name=name,
        config=config,
        root=top / "root",
        state=top / "state",
        address=str(top / "daemon.sock"),
        log=logging.getLogger(name),
        events=nothing,
        spawner=spawner,
        registry=nothing,
    )
