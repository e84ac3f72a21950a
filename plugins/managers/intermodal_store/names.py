"""Checks and small writes that every subject shares."""

from __future__ import annotations

import time
from typing import Any

from intermodal_core.contracts.managers.store import Namespace, Scope
from intermodal_core.contracts.metadata import Table, Transaction
from intermodal_core.errors import NotFound
from intermodal_oci.references import validate_identifier

from intermodal_store.tables import NAMESPACES

__all__ = ["elsewhere", "enter", "namespace_of", "not_found", "now"]


def now() -> int:
    """The time, in ns since the epoch."""
    return time.time_ns()


def namespace_of(scope: Scope) -> str:
    """The namespace; FailedPrecondition when there is none, InvalidArgument for what cannot be one."""
    return validate_identifier(scope.named)


def enter(tx: Transaction, scope: Scope) -> None:
    """Make the namespace that something is written to, where it is not there yet."""
    if tx.get(NAMESPACES, scope.namespace) is None:
        tx.put(NAMESPACES, Namespace(scope.namespace))


def elsewhere(tx: Transaction, table: Table[Any], index: str, name: str, namespace: str) -> str:
    """A clause that names the other namespaces that hold `name`, or ""."""
    others = sorted({record.namespace for record in tx.scan(table, name, index=index)} - {namespace})
    return f"; it is in the namespace{'s' if len(others) > 1 else ''} {', '.join(others)}" if others else ""


def not_found(tx: Transaction, what: str, table: Table[Any], index: str, name: str, namespace: str) -> NotFound:
    """The error for a name that this namespace does not hold."""
    other = elsewhere(tx, table, index, name, namespace)
    return NotFound(f"there is no {what} {name} in the namespace {namespace}{other}")
