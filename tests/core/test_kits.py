"""Each conformance kit has a test for each rule of its contract, and finds the fault that it is there for.

A file `*_mutants.py` of this folder is a kit's: implementations with one fault each, named for the rule that they break.
"""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest
from intermodal_core.contracts import hooks, kinds
from intermodal_core.kinds import Kind
from intermodal_core.loading import load_attribute
from intermodal_core.testing.kit import Kit, rules_named, rules_of

from tests.harness.mutants import failures, mutants

FILES = sorted(Path(__file__).parent.glob("*_mutants.py"))
EACH = pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])


def kit_of(path: Path) -> type[Kit]:
    """The kit that a file's mutants are held to."""
    correct: Any = importlib.import_module(f"tests.core.{path.stem}").TestCorrect
    kit: type[Kit] = next(cls for cls in correct.__mro__ if cls.__module__.startswith("intermodal_core.testing."))
    return kit


@EACH
def test_each_rule_has_a_test_and_a_mutant(path: Path) -> None:
    kit = kit_of(path)
    rules = set(rules_of(*kit.contracts))
    tests = [rules_named(name) for name in dir(kit) if name.startswith("test_")]
    assert rules
    assert set().union(*tests) == rules
    assert set().union(*map(rules_named, mutants(path))) == rules


@EACH
def test_each_rule_has_a_number_of_its_own(path: Path) -> None:
    letters = {rule[0] for rule in rules_of(*kit_of(path).contracts)}
    others = {rule[0] for other in FILES if other != path for rule in rules_of(*kit_of(other).contracts)}
    assert len(letters) == 1
    assert letters & others == set()


@pytest.mark.slow
@EACH
def test_each_mutant_is_caught_by_a_test_of_its_rule(path: Path) -> None:
    failed = failures(path)
    assert "TestCorrect" not in failed
    missed = [
        name
        for name in mutants(path)
        if not any(rules_named(test) & rules_named(name) for test in failed.get(name, ()))
    ]
    assert missed == []


def test_each_kind_has_a_kit() -> None:
    contracts = {contract for path in FILES for contract in kit_of(path).contracts}
    stated = [kind for kind in vars(kinds).values() if isinstance(kind, Kind) and kind.interface]
    assert [kind.name for kind in stated if load_attribute(kind.interface) not in contracts] == []
    assert hooks in contracts


@EACH
def test_each_contract_tells_a_life(path: Path) -> None:
    """Its module begins with the words that it uses and how an instance lives; it has a version."""
    contract = kit_of(path).contracts[0]
    module = contract if inspect.ismodule(contract) else importlib.import_module(contract.__module__)
    assert "Life cycle" in (module.__doc__ or "")
    assert isinstance(module.VERSION, int)
    undocumented = [
        name
        for name in module.__all__
        if inspect.isclass(value := getattr(module, name)) or inspect.isfunction(value)
        if not (value.__doc__ or "").strip()
    ]
    assert undocumented == []


def test_each_kit_is_written_for_an_author() -> None:
    """Its module says how it is used, and its tests are skipped by what is declared, never by a name."""
    for path in FILES:
        kit = kit_of(path)
        module = importlib.import_module(kit.__module__)
        assert kit.__name__ in module.__all__
        assert f"class TestMine({kit.__name__})" in (module.__doc__ or ""), kit.__module__
