"""Rows of tasks that an older release recorded."""

from __future__ import annotations

import msgspec
from intermodal_core.contracts.managers.store import Choice
from intermodal_tasks.tables import TASKS, TaskRow


def test_a_row_that_knew_a_runtime_by_its_name_alone() -> None:
    old: dict[str, object] = {"namespace": "n", "id": "c", "runtime": "runc", "bundle": "/b", "pid": 7, "created_at": 1}
    row = TASKS.migrations[0](old)
    assert msgspec.convert(row, TaskRow) == TaskRow("n", "c", Choice("runc"), "/b", 7, 1)
    assert old["runtime"] == "runc", "a step leaves what it is given"
