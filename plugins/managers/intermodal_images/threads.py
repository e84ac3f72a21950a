"""Work on a thread that is never left behind: who gives up waits until it has noticed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

__all__ = ["on_thread"]

T = TypeVar("T")


async def on_thread(work: Callable[[], T], stop: Callable[[], None] | None = None) -> T:
    """The result of `work()`; when this is cancelled, `stop()` is called and the end of the work awaited."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if stop is not None:
            stop()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # seen, and of no interest any more
        raise
