"""The snapshotters' kit finds each fault that it is there for."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from intermodal_core.contracts import snapshotters
from intermodal_core.testing.snapshotters import SnapshotterKit

MUTANTS = Path(__file__).with_name("snapshotter_mutants.py")
NAMES = [
    node.name
    for node in ast.parse(MUTANTS.read_text()).body
    if isinstance(node, ast.ClassDef) and node.name.startswith("TestS")
]


def _rule(name: str) -> str:
    found = re.match(r"[Tt]est_?[Ss](\d\d)", name)
    assert found, name
    return found[1]


@pytest.fixture(scope="module")
def failed() -> dict[str, set[str]]:
    """The tests that failed, by the class of the mutant: each of the mutants meets the tests of its own rule."""
    wanted = " or ".join(["TestCorrect", *(f"({name} and test_s{_rule(name)}_)" for name in NAMES)])
    command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-rfE", str(MUTANTS), "-k", wanted]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    found: dict[str, set[str]] = {}
    for name, test in re.findall(r"^(?:FAILED|ERROR) \S+::(\w+)::(\w+)", done.stdout, re.MULTILINE):
        found.setdefault(name, set()).add(test)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_mutant_is_caught_by_a_test_of_its_rule(failed, name):
    assert _rule(name) in {_rule(test) for test in failed.get(name, ())}, failed.get(name)


def test_a_correct_one_passes(failed):
    assert "TestCorrect" not in failed


def test_each_rule_has_a_test_and_a_mutant():
    text = (snapshotters.Snapshotter.__doc__ or "") + "".join(
        getattr(member, "__doc__", None) or "" for member in vars(snapshotters.Snapshotter).values()
    )
    rules = {f"{int(number):02}" for number in re.findall(r"\[S(\d+)\]", text)}
    assert len(rules) == 15
    assert {_rule(name) for name in vars(SnapshotterKit) if name.startswith("test_")} == rules
    assert {_rule(name) for name in NAMES} == rules
