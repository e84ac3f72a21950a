"""Whether a conformance kit finds the faults that it is there for.

A file of mutants holds one class a fault, `TestC07...`, which is the kit on an implementation with a fault against rule
C7, and `TestCorrect`. It is not collected by itself; `failures` runs it.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

from intermodal_core.testing.kit import rules_named


def mutants(path: Path) -> list[str]:
    """The names of the mutants in a file."""
    classes = [node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]
    return [name for name in classes if name.startswith("Test") and name != "TestCorrect"]


def failures(path: Path) -> dict[str, set[str]]:
    """The tests that failed, by class: each mutant meets the tests of its own rules only."""
    wanted = ["TestCorrect"]
    for name in mutants(path):
        rules = [(rule[0].lower(), int(rule[1:])) for rule in sorted(rules_named(name))]
        tests = " or ".join(f"_{letter}{number}_ or _{letter}{number:02}_" for letter, number in rules)
        wanted.append(f"({name} and ({tests}))")
    command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-rfE", str(path), "-k", " or ".join(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    found: dict[str, set[str]] = {}
    for name, test in re.findall(r"^(?:FAILED|ERROR) \S+::(\w+)::(\w+)", done.stdout, re.MULTILINE):
        found.setdefault(name, set()).add(test)
    return found
