"""How much of what costs us and asks for nothing a peer may send."""

from __future__ import annotations

import time

__all__ = ["Budget"]


class Budget:
    """`burst` at once and `rate` a second; useful work gives more."""

    __slots__ = ("_burst", "_left", "_rate", "_since")

    def __init__(self, burst: int, rate: int) -> None:
        self._burst = burst
        self._rate = rate
        self._left: float = burst
        self._since = time.monotonic()

    def spend(self) -> bool:
        """Whether there was one left."""
        self._left -= 1
        if self._left < 0:
            now = time.monotonic()
            self._left = min(self._burst, self._left + (now - self._since) * self._rate)
            self._since = now
        return self._left >= 0

    def give(self, more: int) -> None:
        """Something was done for the peer."""
        if self._left < self._burst:
            self._left += more
