"""The outbox on a real database: an event is told if and only if its transaction committed, whenever the daemon dies."""

import asyncio
import errno
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest
from intermodal_core.contracts.metadata import Table, Transaction
from intermodal_core.events import Event, EventBus
from intermodal_core.outbox import Outbox
from intermodal_sqlite.store import Store


class Thing(msgspec.Struct, frozen=True):
    name: str


THINGS: Table[Thing] = Table("things", Thing, ("name",))


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(main(), 60))


class House:
    """A store, a bus and the outbox between them, below one directory."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root / "metadata.db")
        self.store.declare(THINGS)
        self.bus = EventBus(root / "events")
        self.outbox = Outbox(self.store, self.bus)

    async def add(self, name: str, fail: bool = False) -> str:
        def change(tx: Transaction) -> str:
            tx.put(THINGS, Thing(name))
            id = self.outbox.emit(tx, "ns", "/things/add", "url", name.encode())
            if fail:
                raise ValueError(name)
            return id

        return await self.outbox.write(change)

    async def rows(self) -> int:
        return await self.store.read(lambda tx: tx.count(self.outbox._table))

    async def told(self) -> list[Event]:
        self.bus.flush()
        newest = self.bus.newest
        events: list[Event] = []
        async with self.bus.subscribe(since=self.bus.oldest - 1) as subscription:
            while not events or events[-1].sequence < newest:
                events += await subscription.batch()
        return events

    async def close(self) -> None:
        await self.outbox.close()
        self.bus.close()
        self.store.close()


def test_told_after_the_commit_in_order(tmp_path: Path) -> None:
    async def main() -> None:
        house = House(tmp_path)
        subscription = house.bus.subscribe()
        id = await house.add("a")
        event = await anext(subscription)
        assert (event.id, event.namespace, event.topic, event.type_url, event.data) == (
            id,
            "ns",
            "/things/add",
            "url",
            b"a",
        )
        await asyncio.gather(*(house.add(f"{n}") for n in range(100)))
        names = [(await anext(subscription)).data for _ in range(100)]
        assert sorted(names) == sorted(b"%d" % n for n in range(100))
        await house.close()
        assert house.bus.newest == 101

    run(main)


def test_many_at_once_in_the_order_of_commits(tmp_path: Path) -> None:
    async def main() -> None:
        house = House(tmp_path)
        order: list[str] = []

        async def one(name: str) -> None:
            def change(tx: Transaction) -> None:
                house.outbox.emit(tx, "ns", "/t", "url", name.encode())
                order.append(name)

            await house.outbox.write(change)

        await asyncio.gather(*(one(f"{n}") for n in range(300)))
        assert [event.data.decode() for event in await house.told()] == order
        assert house.bus.statistics()["duplicates"] == 0
        await house.close()

    run(main)


def test_not_told_when_undone(tmp_path: Path) -> None:
    async def main() -> None:
        house = House(tmp_path)
        results = await asyncio.gather(*(house.add(f"{n}", fail=n % 2 == 0) for n in range(20)), return_exceptions=True)
        assert sum(isinstance(result, ValueError) for result in results) == 10
        assert [int(event.data) for event in await house.told()] == list(range(1, 20, 2))
        await house.close()

    run(main)


def test_rows_are_removed_in_the_background(tmp_path: Path) -> None:
    async def main() -> None:
        house = House(tmp_path)
        for n in range(200):
            await house.add(f"{n}")
        assert house.outbox._removal is not None
        await asyncio.wait_for(house.outbox._removal, 10)
        assert await house.rows() == 0
        assert len(await house.told()) == 200
        await house.close()

    run(main)


def test_rows_that_could_not_be_removed(tmp_path: Path) -> None:
    """The store ends before the removal: it is told once all the same, and removed at the next start."""

    async def main() -> None:
        house = House(tmp_path)
        await house.add("a")
        assert house.outbox._removal is not None
        house.store.close()
        await asyncio.wait_for(house.outbox._removal, 10)
        house.bus.close()
        house = House(tmp_path)
        assert await house.rows() == 1
        await house.outbox.recover()
        assert [event.data for event in await house.told()] == [b"a"]
        assert await house.rows() == 0
        await house.close()

    run(main)


def test_rows_stay_until_the_journal_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async def main() -> None:
        house = House(tmp_path)
        await house.add("a")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            await house.outbox.recover()
        assert await house.rows() == 1
        await house.outbox.recover()
        assert await house.rows() == 0
        assert [event.data for event in await house.told()] == [b"a"]
        await house.close()

    run(main)


CHILD = """
import asyncio, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_outbox import House

async def main():
    house = House(Path(sys.argv[1]))
    await house.outbox.recover()
    n = 0
    while True:
        name = f"{os.getpid()}-{n}"
        await house.add(name)
        os.write(1, f"{name}\\n".encode())
        n += 1

asyncio.run(main())
"""


def test_killed_between_commit_and_publish(tmp_path: Path) -> None:
    """SIGKILL at many instants: what was committed is told, in order, once, and nothing else is."""
    committed: list[str] = []
    random_ = random.Random(7)
    for _ in range(12):
        argv = [sys.executable, "-c", CHILD, str(tmp_path), str(Path(__file__).parent)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            committed += [process.stdout.readline().strip() for _ in range(random_.randrange(1, 90))]
            process.send_signal(signal.SIGKILL)
            committed += [line.strip() for line in process.stdout if line.endswith("\n")]

    async def main() -> None:
        house = House(tmp_path)
        things = {thing.name for thing in await house.store.read(lambda tx: list(tx.scan(THINGS)))}
        await house.outbox.recover()
        assert await house.rows() == 0
        events = await house.told()
        told = [event.data.decode() for event in events]
        assert set(committed) <= things
        assert set(told) == things
        assert len(told) == len(set(told)) == len({event.id for event in events})
        assert [name for name in told if name in set(committed)] == committed
        await house.close()

    run(main)


@pytest.mark.parametrize("fail", [False, True])
def test_a_caller_that_gives_up_does_not_keep_others_waiting(tmp_path: Path, fail: bool) -> None:
    """What became of its write is found out: it is told if it committed, and what was written after it is told either way."""

    async def main() -> None:
        house = House(tmp_path)
        subscription = house.bus.subscribe()
        begun, go_on = threading.Event(), threading.Event()

        def change(tx: Transaction) -> None:
            begun.set()
            go_on.wait(30)
            house.outbox.emit(tx, "ns", "/t", "url", b"given up")
            if fail:
                raise ValueError

        writing = asyncio.create_task(house.outbox.write(change))
        await asyncio.to_thread(begun.wait, 30)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        go_on.set()
        await house.add("after")
        expected = [b"after"] if fail else [b"given up", b"after"]
        assert [(await anext(subscription)).data for _ in expected] == expected
        await house.close()
        assert house.bus.newest == len(expected)

    run(main)
