"""The runner within one process: exceptions, cancellation, deadlines, what is stuck, timings."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from intermodal_core.contracts.metadata import Table, Transaction
from intermodal_core.errors import InvalidArgument, Unavailable
from intermodal_operations import Operation, Runner, Step
from intermodal_operations import runner as runner_module
from intermodal_operations.model import OPERATIONS
from intermodal_sqlite.store import Store

T = TypeVar("T")


class State(msgspec.Struct):
    name: str
    learnt: int = 0


class Done(msgspec.Struct, frozen=True):
    name: str


DONE: Table[Done] = Table("done", Done, ("name",))


class World:
    """Steps a, b, c that write down what happened; any may be told to fail, hang, or learn."""

    def __init__(self) -> None:
        self.history: list[str] = []
        self.failing: dict[str, BaseException] = {}
        self.hanging: dict[str, asyncio.Event] = {}
        self.reached = asyncio.Event()

    async def happen(self, what: str) -> None:
        self.history.append(what)
        if what in self.hanging:
            self.reached.set()
            await self.hanging[what].wait()
            self.history.append(f"{what}, woken")
        if what in self.failing:
            raise self.failing[what]

    def operation(self, *names: str, name: str = "op") -> Operation[State]:
        def make(prefix: str, step: str) -> Callable[[State], Awaitable[None]]:
            async def do(state: State) -> None:
                if not prefix:
                    state.learnt += 1
                await self.happen(f"{prefix}{step}")

            return do

        return Operation(name, State, tuple(Step(step, make("", step), make("undo ", step)) for step in names))


def finish(tx: Transaction) -> str:
    tx.put(DONE, Done("x"))
    return "result"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "m.db")
    store.declare(DONE)
    yield store
    store.close()


async def rows(store: Store) -> tuple[int, int]:
    return await store.read(lambda tx: (tx.count(OPERATIONS), tx.count(DONE)))


def run(work: Coroutine[Any, Any, T]) -> T:
    async def limited() -> T:
        async with asyncio.timeout(30):
            return await work

    return asyncio.run(limited())


def test_success(store: Store) -> None:
    async def main() -> None:
        world, runner = World(), Runner(store, "me")
        runner.register(world.operation("a", "b"))
        assert await runner.run("op", State("x"), finish) == "result"
        assert world.history == ["a", "b"]
        assert await rows(store) == (0, 1)
        (timing,) = runner.timings()
        assert (timing.kind, timing.outcome) == ("op", "done")
        assert [name for name, _ in timing.steps] == ["begin", "a", "b", "finish"]
        assert all(seconds >= 0 for _, seconds in timing.steps)

    run(main())


@pytest.mark.parametrize("failing", ["a", "b", "c"])
def test_a_failed_step_is_undone_with_those_before(store: Store, failing: str) -> None:
    async def main() -> None:
        world, runner = World(), Runner(store, "me")
        runner.register(world.operation("a", "b", "c"))
        world.failing[failing] = Unavailable("no")
        with pytest.raises(Unavailable, match="no"):
            await runner.run("op", State("x"), finish)
        begun = "abc"[: "abc".index(failing) + 1]
        assert world.history == [*begun, *(f"undo {step}" for step in reversed(begun))]
        assert await rows(store) == (0, 0)
        assert runner.stuck() == []
        assert runner.timings()[0].outcome == "undone"

    run(main())


def test_a_result_that_cannot_be_recorded(store: Store) -> None:
    async def main() -> None:
        world, runner = World(), Runner(store, "me")
        runner.register(world.operation("a"))

        def refuse(tx: Transaction) -> None:
            tx.put(DONE, Done("x"))
            raise Unavailable("taken")

        with pytest.raises(Unavailable, match="taken"):
            await runner.run("op", State("x"), refuse)
        assert world.history == ["a", "undo a"]
        assert await rows(store) == (0, 0)

    run(main())


def test_the_row_is_there_before_the_first_step_and_follows_the_state(store: Store) -> None:
    async def main() -> None:
        seen: list[int] = []

        async def look(state: State) -> None:
            (row,) = await store.read(lambda tx: list(tx.scan(OPERATIONS, "me")))
            seen.append(msgspec.msgpack.decode(row.state, type=State).learnt)
            state.learnt = 7

        runner = Runner(store, "me")
        runner.register(Operation("op", State, (Step("a", look), Step("b", look))))
        await runner.run("op", State("x"), finish)
        assert seen == [0, 7]

    run(main())


def test_cancelled_in_a_step_the_undo_runs_to_its_end(store: Store) -> None:
    """However often the caller is cancelled."""

    async def main() -> None:
        world, runner = World(), Runner(store, "me")
        runner.register(world.operation("a", "b"))
        world.hanging = {"b": asyncio.Event(), "undo a": asyncio.Event()}
        task = asyncio.create_task(runner.run("op", State("x"), finish))
        await world.reached.wait()
        world.reached.clear()
        task.cancel()
        await world.reached.wait()
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        assert not task.done()
        world.hanging["undo a"].set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert world.history == ["a", "b", "undo b", "undo a", "undo a, woken"]
        assert await rows(store) == (0, 0)

    run(main())


def test_cancelled_while_the_result_is_recorded(store: Store) -> None:
    """Recorded is recorded: nothing is undone."""

    async def main() -> None:
        world, runner = World(), Runner(store, "me")
        runner.register(world.operation("a"))
        loop = asyncio.get_running_loop()
        task: asyncio.Task[str] | None = None

        def record(tx: Transaction) -> str:
            assert task is not None
            loop.call_soon_threadsafe(task.cancel)
            return finish(tx)

        task = asyncio.create_task(runner.run("op", State("x"), record))
        with pytest.raises(asyncio.CancelledError):
            await task
        assert world.history == ["a"]
        assert await rows(store) == (0, 1)
        assert runner.timings()[0].outcome == "done"

    run(main())


def test_cancelled_before_the_first_step(store: Store) -> None:
    async def main() -> None:
        world, runner = World(), Runner(store, "me")
        runner.register(world.operation("a"))
        task = asyncio.create_task(runner.run("op", State("x"), finish))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert world.history == []
        assert await rows(store) == (0, 0)

    run(main())


def test_a_failed_undo_is_stuck_and_tried_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends the undo there, the caller gets the first error, and later tries go on until it works."""
    monkeypatch.setattr(runner_module, "_FIRST_RETRY", 0.01)

    async def main() -> None:
        world, runner = World(), Runner(store, "me")
        runner.register(world.operation("a", "b"))
        world.failing = {"b": Unavailable("first"), "undo b": Unavailable("held")}
        with pytest.raises(Unavailable, match="first"):
            await runner.run("op", State("x"), finish)
        assert "undo a" not in world.history
        (stuck,) = runner.stuck()
        assert (stuck.kind, stuck.why) == ("op", "held")
        assert await rows(store) == (1, 0)
        world.hanging["undo b"] = asyncio.Event()
        await world.reached.wait()
        world.reached.clear()
        world.hanging["undo b"].set()
        await world.reached.wait()
        assert runner.stuck()[0].attempts >= 2
        world.failing.clear()
        world.hanging.clear()
        await asyncio.gather(*runner._retries.values())
        assert runner.stuck() == []
        assert world.history[-2:] == ["undo b", "undo a"]
        assert await rows(store) == (0, 0)
        await runner.close()

    run(main())


async def leave(store: Store, world: World, count: int = 1, kind: str = "op") -> None:
    """Leave operations begun, as a crash does: their rows, and nothing that runs."""
    runner = Runner(store, "me")
    runner.register(world.operation("a", name=kind))
    world.failing = {"a": Unavailable("crash"), "undo a": Unavailable("crash")}
    for _ in range(count):
        with pytest.raises(Unavailable):
            await runner.run(kind, State("x"), finish)
    await runner.close()
    world.failing = {}
    world.history.clear()


def test_recovery_is_parallel_with_a_deadline_each(store: Store) -> None:
    async def main() -> None:
        world = World()
        await leave(store, world, 5)
        world.hanging = {"undo a": asyncio.Event()}
        runner = Runner(store, "me")
        runner.register(world.operation("a"))
        stuck = await runner.recover(0.05)
        assert [s.why for s in stuck] == ["not done within 0.05 s"] * 5
        assert world.history == ["undo a"] * 5
        await runner.close()
        world.hanging["undo a"].set()
        assert await runner.recover(5) == []
        assert await rows(store) == (0, 0)

    run(main())


def test_recovery_leaves_others_and_the_running_alone(store: Store) -> None:
    async def main() -> None:
        world = World()
        await leave(store, world)
        other = Runner(store, "another")
        assert await other.recover(5) == []
        assert await rows(store) == (1, 0)
        runner = Runner(store, "me")
        runner.register(world.operation("a"))
        world.hanging = {"a": asyncio.Event()}
        task = asyncio.create_task(runner.run("op", State("x"), finish))
        await world.reached.wait()
        await runner.recover(5)
        assert world.history == ["a", "undo a"]
        world.hanging["a"].set()
        assert await task == "result"
        assert await rows(store) == (0, 1)

    run(main())


def test_a_kind_that_is_gone_stays_listed(store: Store) -> None:
    async def main() -> None:
        await leave(store, World(), kind="gone")
        runner = Runner(store, "me")
        (stuck,) = await runner.recover(5)
        assert "no operation gone is registered" in stuck.why
        assert stuck.retry_at == 0
        assert await rows(store) == (1, 0)

    run(main())


def test_a_state_that_cannot_be_decoded_stays_listed(store: Store) -> None:
    async def main() -> None:
        await leave(store, World())

        class Other(msgspec.Struct):
            path: str

        async def nothing(state: Other) -> None:
            raise AssertionError

        runner = Runner(store, "me")
        runner.register(Operation("op", Other, (Step("a", nothing, nothing),)))
        (stuck,) = await runner.recover(5)
        assert "cannot be decoded" in stuck.why
        assert stuck.retry_at == 0

    run(main())


def test_a_full_metadata_store_begins_nothing(store: Store) -> None:
    """Where the row cannot be written no step runs, and nothing is stuck."""

    async def main() -> None:
        world, runner = World(), Runner(store, "me")
        runner.register(world.operation("a"))
        store.close()
        with pytest.raises(Unavailable):
            await runner.run("op", State("x"), finish)
        assert world.history == []
        assert runner.stuck() == []

    run(main())


def test_misuse_is_refused(store: Store) -> None:
    world, runner = World(), Runner(store, "me")
    runner.register(world.operation("a"))
    with pytest.raises(InvalidArgument, match="registered already"):
        runner.register(world.operation("a"))
    with pytest.raises(InvalidArgument, match="one name"):
        world.operation("a", "a")
    with pytest.raises(InvalidArgument, match="forward"):
        Operation("f", State, world.operation("a").steps, forward=True)
    with pytest.raises(InvalidArgument, match="no operation"):
        run(runner.run("other", State("x"), finish))
    with pytest.raises(InvalidArgument, match="finish"):
        run(runner.run("op", State("x")))
