"""How fast the event bus is: one publisher, ten subscribers, in one process. `python bench/bus.py [EVENTS]`."""

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from intermodal_core.events import EventBus, Subscription

SUBSCRIBERS = 10
TURN = 100  # events published in one turn of the loop


async def measure(events: int, filters: list[str], one_by_one: bool) -> float:
    """Seconds until every subscriber has had every event."""
    with tempfile.TemporaryDirectory() as directory:
        bus = EventBus(Path(directory))
        subscriptions = [bus.subscribe(filters) for _ in range(SUBSCRIBERS)]

        async def read(subscription: Subscription) -> None:
            seen = 0
            while seen < events:
                if one_by_one:
                    await subscription.__anext__()
                    seen += 1
                else:
                    seen += len(await subscription.batch())

        readers = [asyncio.create_task(read(subscription)) for subscription in subscriptions]
        data = bytes(60)
        started = time.perf_counter()
        for at in range(0, events, TURN):
            for _ in range(at, min(events, at + TURN)):
                bus.publish("default", "/tasks/start", "containerd.events.TaskStart", data)
            await asyncio.sleep(0)
        await asyncio.gather(*readers)
        taken = time.perf_counter() - started
        bus.close()
        return taken


def main() -> None:
    """Print events a second, to ten subscribers, for each way of reading."""
    events = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    for name, filters, one_by_one in (
        ("batches", [], False),
        ("async for", [], True),
        ("async for, with a filter", ['topic=="/tasks/start"'], True),
    ):
        taken = asyncio.run(measure(events, filters, one_by_one))
        print(f"{name}: {events / taken:,.0f} events/s to {SUBSCRIBERS} subscribers")


if __name__ == "__main__":
    main()
