"""The kit of runtimes finds each fault that it is there for."""

from __future__ import annotations

from pathlib import Path

import pytest
from intermodal_core.contracts.runtimes import Runtime
from intermodal_core.testing.runtimes import RuntimeKit

from tests.harness.mutants import failures, mutants, rules_named, rules_of

MUTANTS = Path(__file__).with_name("runtime_mutants.py")
NAMES = mutants(MUTANTS)


@pytest.fixture(scope="module")
def failed() -> dict[str, set[str]]:
    return failures(MUTANTS)


@pytest.mark.parametrize("name", NAMES)
def test_mutant_is_caught_by_a_test_of_its_rule(failed: dict[str, set[str]], name: str) -> None:
    assert any(rules_named(test) & rules_named(name) for test in failed.get(name, ())), failed.get(name)


def test_a_correct_one_passes(failed: dict[str, set[str]]) -> None:
    assert "TestCorrect" not in failed


def test_each_rule_has_a_test_and_a_mutant() -> None:
    rules = rules_of(Runtime)
    assert len(rules) == 25
    tests = [rules_named(name) for name in dir(RuntimeKit) if name.startswith("test_")]
    assert set().union(*tests) == rules
    assert set().union(*map(rules_named, NAMES)) == rules
