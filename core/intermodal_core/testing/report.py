"""The pytest plugin of the kits: which sentence of the contract failed, and the call that broke it.

It is there wherever intermodal-core and pytest are installed, and concerns itself with the tests of kits alone. Options like
`-v`, `-x`, `-k s08` and pytest-xdist work as ever.
"""

from __future__ import annotations

import ast
import inspect
import linecache
import textwrap
from collections.abc import Generator
from types import TracebackType
from typing import Any

import pytest

from intermodal_core.testing import recording
from intermodal_core.testing.kit import Kit, rules_named, rules_of

__all__ = ["pytest_runtest_call", "pytest_runtest_makereport", "pytest_terminal_summary"]

_PROPERTY = "intermodal.contract"


def _kit(item: pytest.Item) -> type[Kit] | None:
    cls = getattr(item, "cls", None)
    return cls if inspect.isclass(cls) and issubclass(cls, Kit) and cls.contracts else None


def _name(contract: Any) -> str:
    return f"{contract.__module__}:{contract.__qualname__}" if inspect.isclass(contract) else str(contract.__name__)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Note the calls that a kit's test makes."""
    kit = _kit(item)
    if kit is not None:
        recording.start()
        given: dict[str, Any] = getattr(item, "funcargs", {})
        for name in kit.makers:
            if callable(given.get(name)):
                given[name] = recording.watched(given[name], kit.contracts[0])
        for name in kit.instances:
            if name in given:
                recording.watch(given[name], kit.contracts[0])
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to a test's report what it says of the contract."""
    report = yield
    kit = _kit(item)
    if kit is not None and (report.when == "call" or report.outcome != "passed"):
        function = getattr(item, "originalname", item.name)
        told = {
            "kit": f"{item.nodeid.split('::')[0]}::{kit.__name__}",
            "contract": _name(kit.contracts[0]),
            "rules": sorted(rules_named(function)),
            "all": rules_of(*kit.contracts),
            "outcome": report.outcome,
            "test": item.name,
            "why": "",
        }
        if report.skipped and isinstance(report.longrepr, tuple):
            told["why"] = report.longrepr[2].removeprefix("Skipped: ")
        if report.failed and call.excinfo is not None:
            told["why"] = _story(call.excinfo)
            report.sections.append((f"the contract, {told['contract']}", _sentences(told)))
        report.user_properties = [*report.user_properties, (_PROPERTY, told)]
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Rule by rule, a kit at a time."""
    kits: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for outcome in ("passed", "failed", "skipped", "error"):
        for report in terminalreporter.stats.get(outcome, ()):
            for name, told in getattr(report, "user_properties", ()):
                if name == _PROPERTY:
                    kits.setdefault((told["kit"], told["contract"]), []).append(told)
    if not kits:
        return
    terminalreporter.section("contracts")
    for (kit, contract), tests in sorted(kits.items()):
        for line in _summary(kit, contract, tests):
            terminalreporter.line(line)


def _summary(kit: str, contract: str, tests: list[dict[str, Any]]) -> list[str]:
    broken = [test for test in tests if test["outcome"] == "failed"]
    held = {rule for test in tests if test["outcome"] == "passed" for rule in test["rules"]}
    held -= {rule for test in broken for rule in test["rules"]}
    skipped = [test for test in tests if test["outcome"] == "skipped"]
    parts = [f"{len(held)} of {len(tests[0]['all'])} rules held"]
    if skipped:
        whys = sorted({test["why"] for test in skipped})
        parts.append(f"{len(skipped)} tests skipped ({'; '.join(whys)})")
    if broken:
        parts.append(f"{len(broken)} tests failed")
    lines = [f"{kit}: {contract}: {', '.join(parts)}"]
    for test in broken:
        lines += ["", f"  {test['test']}", textwrap.indent(_sentences(test), "    ")]
    return lines


def _sentences(told: dict[str, Any]) -> str:
    """The rules that a failed test is for, and how they were broken."""
    lines = []
    for rule in told["rules"]:
        text = told["all"].get(rule, "")
        lines += textwrap.wrap(f"[{rule}] {text}", 110, subsequent_indent="     ")
    return "\n".join([*lines, told["why"]])


def _story(excinfo: pytest.ExceptionInfo[BaseException]) -> str:
    """What the kit demanded, the last calls, and how it ended."""
    lines = []
    where = _demand(excinfo.tb)
    if where is not None:
        place, source, values = where
        lines += [f"the kit ({place}) has:", textwrap.indent(source, "    ")]
        if values:
            lines.append(f"  with {', '.join(values)}")
    calls = recording.last_calls()
    if calls:
        lines += ["the last calls were:", *(f"    {call}" for call in calls)]
    first = str(excinfo.value).strip().splitlines()
    lines.append(f"and then {type(excinfo.value).__name__}: {first[0] if first else ''}")
    return "\n".join(lines)


def _demand(trace: TracebackType | None) -> tuple[str, str, list[str]] | None:
    """The statement of the kit that failed, where it stands, and the plain values that it has the names of."""
    found = None
    while trace is not None:
        frame = trace.tb_frame
        if str(frame.f_globals.get("__name__", "")).startswith("intermodal_core.testing."):
            found = frame.f_code.co_filename, trace.tb_lineno, frame.f_locals
        trace = trace.tb_next
    if found is None:
        return None
    file, line, values = found
    text = "".join(linecache.getlines(file))
    try:
        statement = _statement(ast.parse(text), line)
    except SystemError:  # CPython 3.11 at times, when a collection of garbage falls into it
        statement = None
    if statement is None:
        return f"{file}:{line}", linecache.getline(file, line).strip(), []
    source = textwrap.dedent("\n".join(text.splitlines()[statement.lineno - 1 : statement.end_lineno]))
    names = sorted({node.id for node in ast.walk(statement) if isinstance(node, ast.Name)})
    values = {name: values[name] for name in names if isinstance(values.get(name), str | int | bytes | tuple)}
    plain = [f"{name} = {value!r}"[:100] for name, value in values.items()]
    return f"{file}:{line}", source, plain


def _statement(tree: ast.AST, line: int) -> ast.stmt | None:
    """The smallest statement around a line; of a `with` that stands there the whole."""
    around = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or node.lineno)
    ]
    return min(around, key=lambda node: (node.end_lineno or node.lineno) - node.lineno, default=None)
