"""Every hook and each of its arguments is in the manual, with an example that fits and what a failure does; and has a test."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest
from intermodal_core.contracts.hooks import ContainerHooks
from intermodal_core.hooks import POLICY, CoreHooks, Hooks

from tests.docs.test_snippets import blocks
from tests.repository.tree import ROOT

DOCUMENT = ROOT / "docs/hooks.md"
SPECS: dict[str, Callable[..., Any]] = {
    name: spec
    for owner in (ContainerHooks, CoreHooks)
    for name, spec in vars(owner).items()
    if hasattr(spec, "intermodal_spec")
}
SECTIONS = {
    name: (arguments.split(", "), text)
    for name, arguments, text in re.findall(
        r"^### `(\w+)\(([^)]*)\)`\n\n(.*?)(?=^##|\Z)", DOCUMENT.read_text(), re.M | re.S
    )
}


def test_the_manual_has_the_hooks_and_no_others() -> None:
    assert list(SECTIONS) == list(SPECS)


@pytest.mark.parametrize("name", SPECS)
def test_a_section_says_what_the_spec_says(name: str) -> None:
    arguments, text = SECTIONS[name]
    assert arguments == list(inspect.signature(SPECS[name]).parameters)[1:]
    first = text.partition("\n")[0]
    policy = getattr(SPECS[name], POLICY)
    assert f"{policy.on_failure}; " in first
    assert f"{policy.deadline or 10:g} s" in first
    changing = SPECS[name].__annotations__["return"] != "None"
    assert first.startswith("Changing") == changing
    assert "@hookimpl" in text, "it has no example"
    for argument in arguments:
        used = re.search(rf"def {name}\(self, [^)]*\b{argument}\b", text) is not None
        assert used or f"`{argument}" in text, f"nothing is said of {argument}"


def test_the_examples_fit() -> None:
    """Each is registered as the daemon would; an argument or a name that no hook has is refused there."""
    examples: list[type] = []
    for block in blocks(DOCUMENT):
        if block.language == "python" and "hookspec" not in block.text:
            scope: dict[str, Any] = {}
            exec(compile(block.text, f"hooks.md:{block.line}", "exec"), scope)
            examples += [value for value in scope.values() if inspect.isclass(value) and value.__module__ == "builtins"]
    hooks = Hooks()
    hooks.add_specs(ContainerHooks)
    implemented = set()
    for example in examples:
        hooks.register(example.__name__, example())
        implemented |= {name for name in vars(example) if hasattr(vars(example)[name], "intermodal_impl")}
    assert list(hooks.misspelt()) == []
    assert implemented == set(SPECS)
    asyncio.run(hooks.close())


def test_every_hook_is_demanded_by_a_test() -> None:
    """Its name is in what a test asserts, not just somewhere."""
    asserted: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        if "hook" not in path.read_text() or path.parent.name == "docs":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Assert | ast.With | ast.Call | ast.Assign):
                asserted |= {
                    leaf.value
                    for leaf in ast.walk(node)
                    if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str)
                }
    assert set(SPECS) - asserted == set()
