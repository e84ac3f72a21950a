"""How patient the source is, and where it looks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """`attempts` for one request, with pauses that double from `pause` seconds; a Retry-After is kept up to `patience`.

    A host that sends nothing for `stall` seconds, or less than `minimum_rate` bytes a second over `window` seconds of
    reading, is given up.
    """

    hosts: tuple[Path, ...] = ()
    credentials: tuple[Path, ...] = ()
    attempts: int = 5
    pause: float = 0.25
    patience: float = 60.0
    dial: float = 10.0
    stall: float = 30.0
    minimum_rate: int = 1024
    window: float = 30.0
