"""How fast events are: in one process from one publisher to ten subscribers, and over gRPC to one."""

from __future__ import annotations

import asyncio
import tempfile
import time
from copy import copy
from itertools import islice
from pathlib import Path

from google.protobuf.any_pb2 import Any
from intermodal_api.containerd.services import events_pb2
from intermodal_core.events import EventBus, Subscription

from bench.calls import Calls
from bench.figures import OURS, Figure
from bench.measuring import Bench

SUBSCRIBERS = 10
TURN = 100  # events published in one turn of the loop
IN_PROCESS, OVER_GRPC = 50_000, 5_000  # events a second that are asked for
_ASKED = "asked for"


def events(bench: Bench) -> list[Figure]:
    """Events a second: each way of reading in one process; and from the journal of our daemon to one gRPC client."""
    figures = []
    for name, filters, one_by_one in (
        ("batches", [], False),
        ("one by one", [], True),
        ("one by one, filtered", ['topic=="/tasks/start"'], True),
    ):
        figure = Figure(f"events to {SUBSCRIBERS} in process, {name}", "/s", targets={_ASKED: 1.0}, higher=True)
        for _ in range(3):
            figure.add(OURS, IN_PROCESS / asyncio.run(_measure(IN_PROCESS, filters, one_by_one)))
        figure.add(_ASKED, IN_PROCESS)
        figures.append(figure)
    figure = Figure("events to 1 over gRPC", "/s", targets={_ASKED: 1.0}, higher=True)
    calls = bench.peers[0].calls
    first = _publish(calls, OVER_GRPC)
    for _ in range(3):
        figure.add(OURS, OVER_GRPC / _replay(calls, first, OVER_GRPC))
    figure.add(_ASKED, OVER_GRPC)
    return [*figures, figure]


def _publish(calls: Calls, count: int) -> int:
    """Publish events; the sequence number before the first of them."""
    event = Any(type_url="containerd.events.TaskStart", value=bytes(60))
    waiting = [calls.begin(events_pb2, "Events.Publish", topic="/bench/event", event=event) for _ in range(count)]
    for call in waiting:
        call.result()
    answers = _since(calls, 0).stream(events_pb2, "Events.Subscribe", filters=['topic=="/bench/event"'])
    return int(next(answers).sequence) - 1


def _replay(calls: Calls, since: int, count: int) -> float:
    """Seconds until a client has had them all."""
    answers = _since(calls, since).stream(events_pb2, "Events.Subscribe")
    started = time.perf_counter()
    for _ in islice(answers, count):
        pass
    return time.perf_counter() - started


def _since(calls: Calls, since: int) -> Calls:
    followed = copy(calls)
    followed.metadata = (*calls.metadata, ("since", str(since)))
    return followed


async def _measure(events: int, filters: list[str], one_by_one: bool) -> float:
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
