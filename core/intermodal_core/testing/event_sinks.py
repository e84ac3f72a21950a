"""The conformance kit of event sinks: subclass `EventSinkKit`, say how one is made and what has arrived, run pytest.

    class TestMine(EventSinkKit):
        @pytest.fixture
        def factory(self):
            return lambda top: MySink(top / "events.jsonl")

        def arrived(self, top):                          # what the sink's place holds, in its order
            return [json.loads(line)["sequence"] for line in (top / "events.jsonl").read_text().splitlines()]

        @contextmanager
        def broken(self, top):                           # meanwhile nothing can be delivered
            ...

A second call of the factory with one directory stands for the next daemon. A test's name says which rule of
`intermodal_core.contracts.event_sinks` it holds to: `test_e1_...` is of [E1].
"""

# ruff: noqa: D102 - what a test holds to is the contract's rule that its name gives

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from intermodal_core.contracts.event_sinks import EventSink, SunkEvent
from intermodal_core.filters import compile_filters
from intermodal_core.testing.kit import Kit

__all__ = ["Arrived", "EventSinkKit", "Factory"]

#: Makes the sink of a daemon whose files are below a directory.
Factory = Callable[[Path], EventSink]
#: The number of an event, or the first and the last number of those that are told to be lost.
Arrived = int | tuple[int, int]


def event(number: int, text: str = "") -> SunkEvent:
    """An event with that number."""
    data = os.urandom(40)
    fields = {"container_id": "c", "exit_status": number, "text": text, "labels": {"a": "b"}}
    return SunkEvent(
        number, f"id-{number}", 10**18 + number, "default", "/tasks/exit", "containerd.events.TaskExit", fields, data
    )


class EventSinkKit(Kit):
    """The rules of the contract, each a test or several."""

    contracts = (EventSink,)
    instances = ("sink",)

    @pytest.fixture
    def factory(self) -> Factory:
        """Makes a sink; to be overridden."""
        raise NotImplementedError("define the fixture `factory`")

    def arrived(self, top: Path) -> Sequence[Arrived]:
        """What has come to the place of the sink whose files are below `top`, in the order there; to be overridden."""
        raise NotImplementedError("define the method `arrived`")

    def broken(self, top: Path) -> AbstractContextManager[None]:
        """While it is entered, the sink's place takes nothing. Without it, what asks for it is skipped."""
        pytest.skip("the method `broken` is not defined")

    @pytest.fixture
    def top(self, tmp_path: Path) -> Path:
        """The daemon's directory."""
        top = tmp_path / "d"
        top.mkdir()
        return top

    @pytest.fixture
    def sink(self, factory: Factory, top: Path) -> Iterator[EventSink]:
        """A new one."""
        sink = factory(top)
        yield sink
        sink.close()

    def test_e1_what_was_delivered_is_there(self, sink: EventSink, top: Path) -> None:
        sink.deliver((event(1),))
        assert list(self.arrived(top)) == [1]
        sink.deliver(tuple(map(event, range(2, 200))))
        assert list(self.arrived(top)) == list(range(1, 200))

    def test_e1_all_that_events_hold(self, sink: EventSink, top: Path) -> None:
        """Text of any kind, a megabyte of it, and an event that nobody could decode."""
        sink.deliver((event(1, 'two\nlines, "quotes", \0 and \N{SNOWMAN}'), event(2, "x" * (1 << 20))))
        sink.deliver((SunkEvent(3, "id-3", 1, "default", "/strange", "of.somebody.Else", data=b"\xff\x00"),))
        assert list(self.arrived(top)) == [1, 2, 3]

    def test_e1_it_survives_the_end_of_the_daemon(self, factory: Factory, top: Path) -> None:
        """Which may come without a `close`."""
        killed = factory(top)
        killed.deliver((event(1), event(2)))
        assert list(self.arrived(top)) == [1, 2]
        sink = factory(top)
        sink.deliver((event(3),))
        sink.close()
        assert list(self.arrived(top)) == [1, 2, 3]
        killed.close()

    def test_e2_what_did_not_arrive_is_an_error(self, sink: EventSink, top: Path) -> None:
        sink.deliver((event(1),))
        with self.broken(top), pytest.raises(Exception) as raised:  # noqa: PT011 - any error will do
            sink.deliver((event(2), event(3)))
        assert str(raised.value).strip(), "the error says nothing"
        sink.deliver((event(2),))
        sink.deliver((event(3), event(4)))
        assert _once(self.arrived(top)) == [1, 2, 3, 4]

    def test_e2_what_comes_twice_is_no_error(self, sink: EventSink, top: Path) -> None:
        sink.deliver((event(1), event(2)))
        sink.deliver((event(1), event(2), event(3)))
        assert _once(self.arrived(top)) == [1, 2, 3]

    def test_e3_the_order_is_kept(self, sink: EventSink, top: Path) -> None:
        numbers = [number for number in range(1, 400) if number % 7]
        for first in range(0, len(numbers), 31):
            sink.deliver(tuple(event(number) for number in numbers[first : first + 31]))
        assert list(self.arrived(top)) == numbers

    def test_e4_what_is_lost_is_told(self, sink: EventSink, top: Path) -> None:
        sink.deliver((event(1),))
        sink.lost(2, 90)
        sink.deliver((event(91),))
        assert list(self.arrived(top)) == [1, (2, 90), 91]

    def test_e4_what_could_not_be_told_is_an_error(self, sink: EventSink, top: Path) -> None:
        with self.broken(top), pytest.raises(Exception) as raised:  # noqa: PT011 - any error will do
            sink.lost(2, 90)
        assert str(raised.value).strip(), "the error says nothing"
        sink.lost(2, 90)
        assert _once(self.arrived(top)) == [(2, 90)]

    def test_e5_close_lets_go(self, factory: Factory, top: Path) -> None:
        first = factory(top)
        first.deliver((event(1),))
        first.close()
        files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
        for number in range(2, 5):
            sink = factory(top)
            sink.deliver((event(number),))
            sink.close()
        end = time.monotonic() + 5  # whoever answers a sink may take a moment
        while len(os.listdir("/proc/self/fd")) > files or threading.active_count() > threads:
            assert time.monotonic() < end, "descriptors or threads are left"
            time.sleep(0.01)
        assert list(self.arrived(top)) == [1, 2, 3, 4]

    def test_e6_filters_are_well_formed(self, sink: EventSink) -> None:
        assert isinstance(sink.filters, tuple)
        compile_filters(list(sink.filters))


def _once(arrived: Sequence[Arrived]) -> list[Arrived]:
    """Without what came before."""
    return list(dict.fromkeys(arrived))
