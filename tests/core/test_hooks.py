"""Hooks: order, copies, deadlines, failure policies, and what registration refuses."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pluggy
import pytest
from intermodal_core.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    PermissionDenied,
)
from intermodal_core.hooks import Hooks, hookimpl, hookspec


class Value(msgspec.Struct):
    parts: list[str] = []


class Specs:
    @hookspec
    def adjust(self, value: Value, who: str, why: str) -> Value | None:
        """Change a value."""

    @hookspec(on_failure="allow", deadline=5)
    def told(self, what: str) -> None:
        """Hear of something."""


@pytest.fixture
def hooks() -> Iterator[Hooks]:
    hooks = Hooks(deadline=10)
    hooks.add_specs(Specs)
    yield hooks
    asyncio.run(hooks.close())


def plugin(**functions: Any) -> SimpleNamespace:
    return SimpleNamespace(
        **{name: hookimpl(function) if callable(function) else function for name, function in functions.items()}
    )


def adder(text: str, **options: Any) -> Any:
    def adjust(value: Value) -> Value:
        value.parts.append(text)
        return value

    return SimpleNamespace(adjust=hookimpl(**options)(adjust))


def change(hooks: Hooks, value: Any) -> Any:
    return asyncio.run(hooks.change("adjust", value, who="me", why="test"))


def test_each_changes_a_copy_in_order(hooks: Hooks) -> None:
    def look(value: Value, why: str) -> None:
        assert (value.parts, why) == (["early", "second", "first"], "test")
        value.parts.append("seen by nobody")

    hooks.register("first", adder("first"))
    hooks.register("second", adder("second"))
    hooks.register("late", adder("late", trylast=True))
    hooks.register("early", adder("early", tryfirst=True))
    hooks.register("look", SimpleNamespace(adjust=hookimpl(trylast=True)(look)))
    hooks.unregister("late")
    hooks.register("late", adder("late", trylast=True))
    start = Value([])
    assert change(hooks, start).parts == ["early", "second", "first", "late"]
    assert start.parts == []
    assert {key: counted.calls for key, counted in hooks.statistics().items()} == {
        ("adjust", name): 1 for name in ("first", "second", "late", "early", "look")
    }


def test_plain_values_are_copied_too(hooks: Hooks) -> None:
    def adjust(value: dict[str, Any]) -> None:
        value["nested"]["x"] = 1

    hooks.register("p", plugin(adjust=adjust))
    value: dict[str, Any] = {"nested": {}, "pair": (1, 2)}
    assert change(hooks, value) is value
    assert value == {"nested": {}, "pair": (1, 2)}


def test_a_hook_without_implementations_hands_back_the_value_itself(hooks: Hooks) -> None:
    value = Value(["x"])
    assert change(hooks, value) is value
    asyncio.run(hooks.notify("told", what="x"))


def test_deny_raises_by_meaning_with_hook_and_plugin(hooks: Hooks) -> None:
    def veto(value: Value) -> None:
        raise PermissionDenied("not signed")

    def broken(value: Value) -> None:
        raise ZeroDivisionError("oops")

    hooks.register("guard", plugin(adjust=veto))
    with pytest.raises(PermissionDenied, match=r"^hook adjust of guard: not signed$"):
        change(hooks, Value())
    hooks.register("broken", plugin(adjust=broken))
    with pytest.raises(Internal, match=r"^hook adjust of broken raised ZeroDivisionError: oops$") as caught:
        change(hooks, Value())
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    hooks.unregister("broken")
    hooks.register("wrong", plugin(adjust=lambda value: 5))
    with pytest.raises(Internal, match="returned int, not Value"):
        change(hooks, Value())
    assert hooks.statistics()["adjust", "wrong"].errors == 1


def test_allow_logs_and_goes_on(hooks: Hooks, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[str] = []

    def listen(what: str) -> None:
        heard.append(what)

    def broken(what: str) -> None:
        raise SystemExit(3)

    def failing(what: str) -> None:
        raise FileNotFoundError(2, "no such", "/x")

    hooks.register("last", plugin(told=listen))
    hooks.register("broken", plugin(told=broken))
    hooks.register("failing", plugin(told=failing))
    with caplog.at_level(logging.DEBUG):
        asyncio.run(hooks.notify("told", what="news"))
    assert heard == ["news"]
    assert "hook told of broken" in caplog.text
    assert "SystemExit" in caplog.text
    assert "hook told of failing: no such (/x); passed over" in caplog.text
    assert "hook told of last: " in caplog.text
    assert "ms" in caplog.text


def test_required_makes_every_failure_deny(hooks: Hooks) -> None:
    def broken(what: str) -> None:
        raise ValueError

    hooks.register("broken", plugin(told=broken), required=True)
    with pytest.raises(Internal, match="hook told of broken"):
        asyncio.run(hooks.notify("told", what="x"))


def test_what_is_late_is_not_waited_for_and_dropped(hooks: Hooks) -> None:
    release, ended = threading.Event(), threading.Event()

    def late(value: Value) -> Value:
        release.wait(30)
        value.parts.append("late")
        ended.set()
        return value

    hooks.register("late", plugin(adjust=late), deadline=0.05)
    value = Value([])
    with pytest.raises(DeadlineExceeded, match="hook adjust of late"):
        change(hooks, value)
    release.set()
    assert ended.wait(30)
    assert value.parts == []


def test_a_late_one_that_is_allowed_to_fail_is_passed_over(hooks: Hooks) -> None:
    release = threading.Event()
    heard: list[str] = []

    def listen(what: str) -> None:
        heard.append(what)

    hooks.register("next", plugin(told=listen))
    hooks.register("late", plugin(told=lambda what: release.wait(30)), deadline=0.05, threads=1)
    asyncio.run(hooks.notify("told", what="x"))
    asyncio.run(hooks.notify("told", what="y"))  # its only thread is held: passed over at once
    release.set()
    assert heard == ["x", "y"]
    assert hooks.statistics()["told", "late"].errors == 2


async def _coroutine(value: Any) -> None: ...


async def _agen(value: Any) -> Any:
    yield


def _generator(value: Any) -> Any:
    yield


@pytest.mark.parametrize(
    ("function", "options", "why"),
    [
        (_coroutine, {}, "coroutines"),
        (_agen, {}, "coroutines and generators"),
        (_generator, {}, "coroutines and generators"),
        (_generator, {"wrapper": True}, "wrappers are not supported"),
        (_generator, {"hookwrapper": True}, "wrappers are not supported"),
    ],
)
def test_refused_at_registration(hooks: Hooks, function: Any, options: dict[str, Any], why: str) -> None:
    own = type(function)(function.__code__, function.__globals__, "adjust")
    own.__annotations__ = {}
    with pytest.raises(InvalidArgument, match=rf"hook adjust\(value\) of bad: {why}"):
        hooks.register("bad", SimpleNamespace(adjust=hookimpl(**options)(own)))
    assert change(hooks, 1) == 1
    hooks.register("bad", adder("now right"))


def test_an_argument_that_the_hook_lacks_is_refused_and_leaves_nothing(hooks: Hooks) -> None:
    def adjust(value: Value, color: str) -> None: ...

    with pytest.raises(InvalidArgument, match=r"hook plugin bad: .*adjust.*color"):
        hooks.register("bad", plugin(adjust=adjust))
    value = Value()
    assert change(hooks, value) is value
    hooks.register("bad", adder("right"))


def test_names_and_plugins_are_registered_once(hooks: Hooks) -> None:
    one = adder("x")
    hooks.register("one", one)
    with pytest.raises(AlreadyExists, match="one"):
        hooks.register("one", adder("y"))
    with pytest.raises(AlreadyExists, match="two"):
        hooks.register("two", one)
    hooks.unregister("none")


def test_a_misspelt_hook_is_found(hooks: Hooks) -> None:
    hooks.register("fine", adder("x"))
    hooks.register("optional", SimpleNamespace(other=hookimpl(optionalhook=True)(lambda value: None)))
    assert list(hooks.misspelt()) == []
    hooks.register("typo", plugin(adjsut=lambda value: None))
    [(name, error)] = hooks.misspelt()
    assert name == "typo"
    assert str(error) == 'hook adjsut(value) of typo: no such hook; did you mean "adjust"?'


@pytest.mark.parametrize("option", ["firstresult", "historic"])
def test_specs_of_unsupported_sorts_are_refused(option: str) -> None:
    def decide(value: int) -> None: ...

    mark = pluggy.HookspecMarker("intermodal")
    marked = mark(decide, firstresult=True) if option == "firstresult" else mark(decide, historic=True)
    with pytest.raises(InvalidArgument, match=r"hook decide\(.*firstresult"):
        Hooks().add_specs(SimpleNamespace(decide=marked))


def test_a_coroutine_spec_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"hook told\(value: .*plain def"):
        Hooks().add_specs(SimpleNamespace(told=hookspec(_coroutine)))


def test_a_required_plugin_that_is_absent_refuses_what_it_guards(hooks: Hooks) -> None:
    hooks.demand("guard", ["adjust"])
    asyncio.run(hooks.notify("told", what="not guarded"))
    with pytest.raises(FailedPrecondition, match="adjust is refused: the config requires guard"):
        change(hooks, Value())
    hooks.register("guard", adder("ok"))
    assert change(hooks, Value([])).parts == ["ok"]
    hooks.unregister("guard")
    with pytest.raises(FailedPrecondition):
        change(hooks, Value())


def test_a_required_plugin_without_guards_is_missed_by_every_hook_that_denies(hooks: Hooks) -> None:
    hooks.demand("guard")
    with pytest.raises(FailedPrecondition, match="adjust is refused"):
        change(hooks, Value())
    asyncio.run(hooks.notify("told", what="its failures are allowed"))
    hooks.register("guard", plugin(told=lambda what: None))
    assert change(hooks, Value(["kept"])).parts == ["kept"]


def test_each_plugin_is_greeted_once_when_it_is_there(hooks: Hooks) -> None:
    heard: list[tuple[str, str]] = []
    asked = iter(("first", "second", "third"))

    async def provide() -> dict[str, Any]:
        return {"what": next(asked)}

    async def main() -> None:
        hooks.register("early", plugin(told=lambda what: heard.append(("early", what))))
        hooks.register("deaf", adder("x"))
        hooks.greet("told", provide)
        hooks.register("late", plugin(told=lambda what: heard.append(("late", what))))
        await hooks.settled()

    asyncio.run(main())
    assert heard == [("early", "first"), ("late", "second")]


def test_a_greeting_has_a_longer_deadline_for_longer_lists(hooks: Hooks, caplog: pytest.LogCaptureFixture) -> None:
    release = threading.Event()
    done: list[int] = []

    def told(what: list[int]) -> None:
        assert release.wait(30)
        done.append(len(what))

    async def provide() -> dict[str, Any]:
        return {"what": [1] * 1000}

    async def main() -> None:
        hooks.register("slow", plugin(told=told), deadline=0.001)
        hooks.greet("told", provide, extra=0.02)
        asyncio.get_running_loop().call_later(0.1, release.set)
        await hooks.settled()

    asyncio.run(main())
    assert done == [1000]
    assert caplog.text == ""


def test_a_greeting_that_fails_is_logged_and_denies_nothing(hooks: Hooks, caplog: pytest.LogCaptureFixture) -> None:
    def told(what: str) -> None:
        raise PermissionDenied("not today")

    async def provide() -> dict[str, Any]:
        return {"what": "x"}

    async def main() -> None:
        hooks.register("p", plugin(told=told), required=True)
        hooks.greet("told", provide)
        await hooks.settled()

    asyncio.run(main())
    assert "hook told of p: not today" in caplog.text


def test_a_hook_that_nobody_stated_is_a_defect(hooks: Hooks) -> None:
    with pytest.raises(Internal, match="other"):
        asyncio.run(hooks.notify("other"))
    hooks.register("p", plugin(adjust=lambda who: None))
    with pytest.raises(Internal, match="without who"):
        asyncio.run(hooks.change("adjust", Value()))


def test_specs_that_an_earlier_implementation_does_not_fit_are_refused() -> None:
    hooks = Hooks()
    hooks.register("early", plugin(told=lambda color: None))
    with pytest.raises(InvalidArgument, match=r"hooks of .*color"):
        hooks.add_specs(Specs)
    asyncio.run(hooks.close())


def test_what_cannot_be_encoded_is_copied_as_it_is(hooks: Hooks) -> None:
    class Odd(msgspec.Struct):
        parts: list[str]
        other: Any

    hooks.register("p", adder("x"))
    value = Odd([], range(3))
    assert change(hooks, value) == Odd(["x"], range(3))
    assert value.parts == []


def test_a_plugin_taken_out_during_the_call_is_left_out(hooks: Hooks) -> None:
    heard: list[str] = []

    def listen(what: str) -> None:
        heard.append(what)

    def leave(what: str) -> None:
        hooks.unregister("gone")

    hooks.register("last", plugin(told=listen))
    hooks.register("gone", plugin(told=listen, other=1))
    hooks.register("leave", plugin(told=leave))
    asyncio.run(hooks.notify("told", what="x"))
    assert heard == ["x"]
