"""What all kits have in common: the contract that they hold an implementation to, rule by rule."""

from __future__ import annotations

import inspect
import re
from typing import Any, ClassVar

import pytest

__all__ = ["Kit", "rules_named", "rules_of"]

_RULE = re.compile(r"_?([A-Z])0*(\d+)(?=_|[A-Z][a-z]|\Z)")
_MARK = re.compile(r"\[([A-Z]\d+)\]\s*")


class Kit:
    """The base of every kit. A test is named for the rules that it holds to: `test_s08_...` is of [S8]."""

    #: The contract, and what belongs to it: their docstrings, or those of their members, have the rules.
    contracts: ClassVar[tuple[Any, ...]] = ()
    #: The fixtures that make instances, and those that are one: calls on them are told of when a test fails.
    makers: ClassVar[tuple[str, ...]] = ("factory",)
    instances: ClassVar[tuple[str, ...]] = ()
    #: What the plugin declares; the tests of other capabilities are skipped.
    capabilities: frozenset[str] = frozenset()

    #: Whether what the factory opens works in the process that opened it, so that it ends between two steps with that one.
    forks = True

    def needs_fork(self) -> None:
        """Skip the test where it would end another process than the instance's."""
        if not self.forks:
            pytest.skip("it runs in a process of its own")

    def declares(self, capability: str) -> None:
        """Skip the test where the capability is not declared."""
        if capability not in self.capabilities:
            pytest.skip(f"{capability} is not declared")

    def lacks(self, capability: str) -> None:
        """Skip the test where the capability is declared."""
        if capability in self.capabilities:
            pytest.skip(f"{capability} is declared")


def rules_named(name: str) -> set[str]:
    """The rules that a test or a class is named for: `test_c1_c2_nothing` and `TestC01C02` are for C1 and C2."""
    name = re.sub(r"\A[Tt]est", "", name)
    found = set()
    while match := _RULE.match(name if name[:1].isupper() else name[:2].upper() + name[2:]):
        found.add(match[1] + match[2])
        name = name[match.end() :]
    return found


def rules_of(*contracts: Any) -> dict[str, str]:
    """The rules in the docstrings of contracts and their members, by id: `[C1] A blob ...` is C1. In their order."""
    found: dict[str, str] = {}
    for contract in contracts:
        pieces = _MARK.split(inspect.cleandoc(contract.__doc__ or ""))
        for id, rule in zip(pieces[1::2], pieces[2::2], strict=True):
            found[id] = " ".join(rule.partition("\n\n")[0].split())
        for member in filter(inspect.isfunction, vars(contract).values()):
            pieces = _MARK.split(inspect.cleandoc(member.__doc__ or ""))
            found.update((id, " ".join(rule.split())) for id, rule in zip(pieces[1::2], pieces[2::2], strict=True))
    return dict(sorted(found.items(), key=lambda rule: (rule[0][0], int(rule[0][1:]))))
