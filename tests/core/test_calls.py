"""Calls into plugins: threads, deadlines, breakers, errors by meaning."""

from __future__ import annotations

import asyncio
import errno
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from intermodal_core.calls import Guard, Pool
from intermodal_core.errors import DeadlineExceeded, Internal, NotFound, Unavailable

from tests.harness.waiting import until


class Backend:
    """What a plugin might be."""

    capabilities = ("x",)

    def __init__(self) -> None:
        self.release = threading.Event()

    def where(self) -> str:
        return threading.current_thread().name

    async def on_loop(self) -> str:
        return threading.current_thread().name

    def items(self) -> Iterator[str]:
        yield threading.current_thread().name
        yield "second"

    def stuck(self) -> str:
        assert self.release.wait(20)
        return "late"

    async def stuck_on_loop(self) -> None:
        await asyncio.sleep(20)

    def fails(self, error: BaseException) -> None:
        raise error


def guarded(backend: Backend, threads: int = 2, deadline: float = 5.0) -> Guard:
    return Guard("kind.name", backend, Pool("kind.name", threads), deadline)


def test_plain_methods_run_on_the_plugins_threads() -> None:
    async def test() -> None:
        guard = guarded(Backend())
        assert await guard.where() == "kind.name"
        assert await guard.on_loop() == threading.main_thread().name
        assert await guard.items() == ["kind.name", "second"], "an iterator is drained where it was made"
        assert guard.capabilities == ("x",)

    asyncio.run(test())


def test_a_probe_closes_the_breaker_of_threads_that_never_return(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intermodal_core.calls.FIRST_PROBE", 0.5)

    async def test() -> None:
        backend = Backend()
        changes: list[str] = []
        pool = Pool("kind.name", 2, lambda: changes.append(pool.trouble))
        guard = Guard("kind.name", backend, pool, 0.2)
        for round in range(3):
            late = await asyncio.gather(guard.stuck(), guard.stuck(), return_exceptions=True)
            assert [type(error) for error in late] == [DeadlineExceeded, DeadlineExceeded]
            assert "does not answer" in guard.trouble, round
            with pytest.raises(Unavailable):
                await guard.where()
            await asyncio.sleep(0.6)
            pair = list(await asyncio.gather(guard.where(), guard.where(), return_exceptions=True))
            assert pair[0] == "kind.name", "one call is let through"
            assert isinstance(pair[1], Unavailable), "and only one"
            assert guard.trouble == ""
            assert list(await asyncio.gather(guard.where(), guard.where())) == ["kind.name"] * 2
        late = await asyncio.gather(guard.stuck(), guard.stuck(), return_exceptions=True)
        await asyncio.sleep(0.6)
        with pytest.raises(Unavailable):
            await guard.where()  # threads that hang are written off three times over, and then no more
        assert len([one for one in changes if one]) == 4
        backend.release.set()
        await asyncio.to_thread(until, lambda: not guard.trouble)
        assert await guard.where() == "kind.name"

    asyncio.run(test())


def test_a_probe_that_hangs_opens_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intermodal_core.calls.FIRST_PROBE", 0.05)

    async def test() -> None:
        backend = Backend()
        guard = guarded(backend, threads=1, deadline=0.05)
        with pytest.raises(DeadlineExceeded):
            await guard.stuck()
        await asyncio.sleep(0.1)
        with pytest.raises(DeadlineExceeded):
            await guard.stuck()
        with pytest.raises(Unavailable):
            await guard.where()
        backend.release.set()

    asyncio.run(test())


def test_one_that_nobody_waits_for_holds_its_thread_all_the_same() -> None:
    async def test() -> None:
        backend = Backend()
        guard = guarded(backend, threads=1, deadline=0.2)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await guard.stuck()
        await asyncio.to_thread(until, lambda: guard.trouble)
        backend.release.set()

    asyncio.run(test())


def test_a_late_call_is_given_up_and_the_breaker_opens_and_closes() -> None:
    async def test() -> None:
        backend = Backend()
        guard = guarded(backend, threads=1, deadline=0.05)
        with pytest.raises(DeadlineExceeded, match=r"did not return within 0.05 s; the outcome is unknown"):
            await guard.stuck()
        began = time.perf_counter()
        with pytest.raises(Unavailable, match="does not answer: all 1 of its threads"):
            await guard.where()
        assert time.perf_counter() - began < 0.04, "an open breaker fails at once"
        backend.release.set()
        async with asyncio.timeout(5):
            while True:
                try:
                    assert await guard.where() == "kind.name"
                    break
                except Unavailable:
                    await asyncio.sleep(0.001)

    asyncio.run(test())


def test_a_full_pool_holds_up_only_its_own_plugin() -> None:
    async def test() -> None:
        stuck, other = Backend(), guarded(Backend())
        guard = guarded(stuck, threads=1, deadline=0.2)
        first = asyncio.ensure_future(guard.stuck())
        await asyncio.sleep(0.1)  # the first is at work when the second comes: its own deadline starts later
        waiting = asyncio.ensure_future(guard.where())
        assert await other.where() == "kind.name"
        with pytest.raises(DeadlineExceeded):
            await first
        with pytest.raises(DeadlineExceeded, match="waited for a free thread"):
            await waiting
        stuck.release.set()

    asyncio.run(test())


def test_coroutines_have_deadlines_too() -> None:
    async def test() -> None:
        with pytest.raises(DeadlineExceeded, match=r"kind.name.stuck_on_loop did not return"):
            await guarded(Backend(), deadline=0.02).stuck_on_loop()

    asyncio.run(test())


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (NotFound("no such thing"), NotFound, "^no such thing$"),
        (OSError(errno.ENOENT, "gone", "/x"), NotFound, "kind.name.fails: gone"),
        (ValueError("odd"), Internal, "kind.name.fails raised ValueError: odd"),
        (SystemExit(3), Internal, "SystemExit"),
        (KeyboardInterrupt(), Internal, "KeyboardInterrupt"),
        (StopIteration(), Internal, "StopIteration"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_errors_are_put_into_the_closed_set(error: BaseException, kind: type[Exception], words: str) -> None:
    async def test() -> None:
        guard = guarded(Backend())
        with pytest.raises(kind, match=words):
            await guard.fails(error)
        statistics: Any = guard.statistics["fails"]
        assert (statistics.calls, statistics.errors) == (1, 1)

    asyncio.run(test())


def test_many_calls_at_once_take_no_more_threads_than_allowed() -> None:
    async def test() -> None:
        backend = Backend()
        pool = Pool("kind.name", 3)
        guard = Guard("kind.name", backend, pool, 5.0)
        peak = 0
        lock = threading.Lock()
        running = 0

        def work() -> None:
            nonlocal peak, running
            with lock:
                running += 1
                peak = max(peak, running)
            time.sleep(0.001)
            with lock:
                running -= 1

        backend.work = work  # type: ignore[attr-defined]
        await asyncio.gather(*(guard.work() for _ in range(200)))
        assert peak == 3
        assert guard.statistics["work"].calls == 200

    asyncio.run(test())


def test_a_closed_pool_refuses() -> None:
    async def test() -> None:
        pool = Pool("kind.name", 1)
        pool.close()
        with pytest.raises(Unavailable, match="being stopped"):
            await pool.run(time.time)

    asyncio.run(test())
