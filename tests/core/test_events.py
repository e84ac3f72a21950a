"""The bus: whoever follows sees everything once and in order, however slow; whoever publishes never waits."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from intermodal_core.errors import InvalidArgument, OutOfRange, Unavailable
from intermodal_core.events import Event, EventBus, Subscription


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(main(), 60))


def publish(bus: EventBus, n: int, namespace: str = "ns", topic: str = "/t") -> Event:
    return bus.publish(namespace, topic, "url", b"%d" % n)


async def take(subscription: Subscription, count: int) -> list[Event]:
    return [await anext(subscription) for _ in range(count)]


@given(
    st.lists(st.tuples(st.sampled_from(["publish", "turn", "read", "reopen"]), st.integers(1, 40)), max_size=30),
    st.integers(1, 50),
    st.integers(0, 10**6),
)
@settings(max_examples=60, deadline=None)
def test_follower_sees_all_once_in_order(steps: list[tuple[str, int]], buffer: int, pick: int) -> None:
    """Whatever the interleaving of publishing, reading, restarts, with any buffer, from any number on."""

    async def main() -> None:
        with tempfile.TemporaryDirectory() as directory:
            bus = EventBus(Path(directory))
            following = bus.subscribe(buffer=buffer)
            everything: list[Event] = []
            seen: list[Event] = []
            for step, count in steps:
                if step == "publish":
                    everything += [publish(bus, n) for n in range(count)]
                elif step == "turn":
                    await asyncio.sleep(0)
                elif step == "read":
                    seen += await take(following, min(count, len(everything) - len(seen)))
                else:
                    position = following.position
                    bus.close()
                    bus = EventBus(Path(directory))
                    following = bus.subscribe(since=position, buffer=buffer)
            since = pick % (len(everything) + 1)
            bus.flush()
            async with bus.subscribe(since=since, buffer=buffer) as replay:
                assert await take(replay, len(everything) - since) == everything[since:]
            seen += await take(following, len(everything) - len(seen))
            assert seen == everything
            assert [event.sequence for event in seen] == list(range(1, len(seen) + 1))
            assert following.lag == 0
            bus.close()
            with pytest.raises(StopAsyncIteration):
                await anext(following)

    run(main)


def test_event_is_stamped(tmp_path: Path) -> None:
    bus = EventBus(tmp_path)
    first, second = publish(bus, 1), publish(bus, 2)
    assert (first.sequence, second.sequence) == (1, 2)
    assert 0 < first.timestamp <= second.timestamp
    assert first.id != second.id
    assert (first.namespace, first.topic, first.type_url, first.data) == ("ns", "/t", "url", b"1")
    assert (bus.oldest, bus.newest) == (1, 2)
    bus.close()
    with pytest.raises(Unavailable):
        publish(bus, 3)


@pytest.mark.parametrize("topic", ["", "t", "/", "/t/"])
def test_topic_is_a_path(tmp_path: Path, topic: str) -> None:
    bus = EventBus(tmp_path)
    with pytest.raises(InvalidArgument, match="no topic"):
        publish(bus, 1, topic=topic)
    assert bus.newest == 0
    bus.close()


def test_from_now_on(tmp_path: Path) -> None:
    async def main() -> None:
        bus = EventBus(tmp_path)
        publish(bus, 1)  # not delivered yet when the subscriber comes
        async with bus.subscribe() as subscription:
            event = publish(bus, 2)
            assert await anext(subscription) == event
        bus.close()

    run(main)


def test_filters(tmp_path: Path) -> None:
    def decode(data: bytes) -> Mapping[str, Any]:
        fields = json.loads(data)
        assert isinstance(fields, dict)
        return fields

    async def main() -> None:
        bus = EventBus(tmp_path)
        bus.register_decoder("example.com/", decode)
        bus.register_decoder("example.com/plain", lambda data: {"plain": data.decode()})
        create = bus.publish("a", "/containers/create", "example.com/json", b'{"id": "x", "runtime": {"name": "r"}}')
        broken = bus.publish("a", "/containers/create", "example.com/json", b"no json")
        other = bus.publish("b", "/images/create", "example.com/plain", b"x")
        unknown = bus.publish("b", "/images/delete", "elsewhere", b"x")
        for filters, namespace, expected in [
            ([], None, [create, broken, other, unknown]),
            ([""], None, [create, broken, other, unknown]),
            ([], "b", [other, unknown]),
            (['topic=="/containers/create"'], None, [create, broken]),
            (["namespace==a,event.id==x"], None, [create]),
            (["event.runtime.name==r"], None, [create]),
            (["event.plain==x", "event.id==x"], None, [create, other]),
            (["topic~=create$"], "b", [other]),
            (["event.id!=x"], None, [broken, other, unknown]),
            (["event.id"], None, [create]),
        ]:
            async with bus.subscribe(filters, since=0, namespace=namespace) as subscription:
                assert await take(subscription, len(expected)) == expected, filters
                last = bus.publish(namespace or "a", "/last", "example.com/json", b'{"id": "x", "plain": "x"}')
                following = bus.subscribe(since=last.sequence - 1) if not filters else None
                if following:
                    assert await anext(following) == last
                    await following.aclose()
        with pytest.raises(InvalidArgument):
            bus.subscribe(["topic=="])
        assert bus.statistics()["lags"] == []
        bus.close()

    run(main)


def test_slow_subscriber_blocks_nobody_and_resumes(tmp_path: Path) -> None:
    async def main() -> None:
        bus = EventBus(tmp_path)
        slow, fast = bus.subscribe(buffer=10), bus.subscribe(buffer=10)
        everything: list[Event] = []
        for n in range(200):
            everything.append(publish(bus, n))
            assert await anext(fast) == everything[-1]
        assert slow.lag == 200
        assert bus.statistics()["lags"] == [0, 200]
        assert sum(map(len, slow._batches)) <= 10
        assert await take(slow, 200) == everything
        everything.append(publish(bus, 0))
        assert await anext(slow) == everything[-1]
        assert slow.lag == 0
        bus.close()

    run(main)


def test_subscriber_too_slow_for_the_journal(tmp_path: Path) -> None:
    async def main() -> None:
        bus = EventBus(tmp_path, max_events=64)
        slow = bus.subscribe(buffer=4)
        for n in range(1000):
            publish(bus, n)
            await asyncio.sleep(0)
        with pytest.raises(OutOfRange, match=f"oldest is {bus.oldest}"):
            await anext(slow)
        with pytest.raises(OutOfRange, match=f"oldest is {bus.oldest}"):
            bus.subscribe(since=3)
        with pytest.raises(OutOfRange, match="not happened"):
            bus.subscribe(since=1001)
        again = bus.subscribe(since=bus.oldest - 1)
        assert [event.sequence for event in await take(again, 1001 - bus.oldest)] == list(range(bus.oldest, 1001))
        bus.close()

    run(main)


def test_threads_publish(tmp_path: Path) -> None:
    async def main() -> None:
        bus = EventBus(tmp_path)
        subscriptions = [bus.subscribe(buffer=100) for _ in range(3)]

        def work() -> None:
            for n in range(500):
                publish(bus, n)
                if n % 100 == 0:
                    bus.flush()

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for subscription in subscriptions:
            events = await take(subscription, 2000)
            assert [event.sequence for event in events] == list(range(1, 2001))
        for thread in threads:
            thread.join(10)
        bus.close()

    run(main)


def test_without_a_loop(tmp_path: Path) -> None:
    bus = EventBus(tmp_path)
    publish(bus, 1)

    async def main() -> None:
        subscription = bus.subscribe(since=0)
        publish(bus, 2)
        assert [event.data for event in await take(subscription, 2)] == [b"1", b"2"]

    run(main)
    publish(bus, 3)  # that loop is closed
    run(after := AfterLoop(bus))
    assert after.seen == [b"1", b"2", b"3"]
    bus.close()


class AfterLoop:
    def __init__(self, bus: EventBus) -> None:
        self.bus = bus
        self.seen: list[bytes] = []

    async def __call__(self) -> None:
        subscription = self.bus.subscribe(since=0)
        self.seen = [event.data for event in await take(subscription, 3)]
        await subscription.aclose()


def test_known_ids_are_not_published_again(tmp_path: Path) -> None:
    async def main() -> None:
        bus = EventBus(tmp_path)
        subscription = bus.subscribe()
        first = bus.publish("ns", "/t", "url", b"1", id="one")
        again = bus.publish("ns", "/t", "url", b"1", id="one")
        assert again == first
        second = publish(bus, 2)
        assert await take(subscription, 2) == [first, second]
        bus.close()
        bus = EventBus(tmp_path)
        assert bus.publish("ns", "/t", "url", b"1", id="one") == first
        assert bus.newest == 2
        assert bus.statistics()["duplicates"] == 1
        for n in range(5000):
            bus.publish("ns", "/t", "url", b"", id=f"other{n}")
        assert bus._recent is not None
        assert len(bus._recent) == 4096
        bus.close()

    run(main)


def test_batch(tmp_path: Path) -> None:
    async def main() -> None:
        bus = EventBus(tmp_path)
        subscription = bus.subscribe()
        events = [publish(bus, n) for n in range(5)]
        assert await subscription.batch() == events
        waiting = asyncio.create_task(subscription.batch())
        await asyncio.sleep(0)
        await subscription.aclose()
        assert await waiting == []
        bus.close()

    run(main)


def test_cancelled_reader_loses_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        bus = EventBus(tmp_path)
        subscription = bus.subscribe()
        for n in range(20):
            waiting = asyncio.create_task(anext(subscription))
            await asyncio.sleep(0)
            event = publish(bus, n)
            if n % 2:
                await asyncio.sleep(0)  # delivered, and not yet taken
            waiting.cancel()
            try:
                assert await waiting == event
            except asyncio.CancelledError:
                assert await anext(subscription) == event
        bus.close()

    run(main)


def test_numbers_seen_are_never_given_again(tmp_path: Path) -> None:
    """SIGKILL of a publisher with a subscriber: what the subscriber saw is in the journal, and numbering goes on."""
    code = (
        "import sys, os, asyncio; from pathlib import Path; from intermodal_core.events import EventBus\n"
        "async def main():\n"
        "    bus = EventBus(Path(sys.argv[1]))\n"
        "    subscription = bus.subscribe()\n"
        "    while True:\n"
        "        for n in range(3):\n"
        "            bus.publish('ns', '/t', 'url', os.urandom(8))\n"
        "        for event in await subscription.batch():\n"
        "            os.write(1, b'%d %s\\n' % (event.sequence, event.data.hex().encode()))\n"
        "asyncio.run(main())\n"
    )
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            seen = [process.stdout.readline() for _ in range(300)]
            os.kill(process.pid, signal.SIGKILL)
            seen += [line for line in process.stdout if line.endswith(b"\n")]
        assert len(seen) >= 300

        async def main(seen: list[bytes] = seen) -> None:
            bus = EventBus(tmp_path)
            last = int(seen[-1].split()[0])
            assert bus.newest >= last
            assert publish(bus, 0).sequence > last
            events = {event.sequence: event.data for event in await take(bus.subscribe(since=0), last)}
            for line in seen:
                number, data = line.decode().split()
                assert events[int(number)].hex() == data
            bus.close()

        run(main)
