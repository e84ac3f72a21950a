"""Work on a thread that is never left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from intermodal_core.background import finished

__all__ = ["on_thread"]

T = TypeVar("T")


async def on_thread(work: Callable[[], T], stop: Callable[[], None] | None = None) -> T:
    """The result of `work()`; when this is cancelled, `stop()` is called and the end of the work awaited."""
    return await finished(asyncio.to_thread(work), stop)
