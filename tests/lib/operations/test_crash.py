"""Operations killed at every step, and killed again at every step of their recovery."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from intermodal_core.syscalls import umount
from intermodal_operations.model import OPERATIONS
from intermodal_sqlite.store import Store

from tests.harness.crash import every_kill
from tests.lib.operations.child import RESULTS

Outcome = tuple[list[str], int, list[str]]

CHILD = "tests.lib.operations.child:main"


@pytest.fixture
def roots(tmp_path: Path) -> Iterator[Path]:
    """A directory of roots, whose mounts are gone at the end whatever the test did."""
    yield tmp_path
    for target in tmp_path.glob("*/mount"):
        if target.is_mount():
            umount(str(target))


def left_over(root: Path) -> Outcome:
    """Results, begun operations, and what is in the world."""
    store = Store(root / "m.db")
    store.declare(OPERATIONS, RESULTS)

    async def look() -> tuple[list[str], int]:
        return await store.read(lambda tx: ([row.name for row in tx.scan(RESULTS)], tx.count(OPERATIONS)))

    results, begun = asyncio.run(look())
    store.close()
    found = [path for path in root.rglob("*") if not path.name.startswith("m.db")]
    return results, begun, sorted(f"{path.relative_to(root)}{' (mount)' * path.is_mount()}" for path in found)


WHOLE: Outcome = (["thing"], 0, ["mount (mount)", "thing", "thing/chosen-here"])
NOTHING: Outcome = ([], 0, [])


@pytest.mark.parametrize("kind", ["make", "keep"])
def test_killed_at_every_step_and_of_recovery_again(roots: Path, kind: str) -> None:
    """Whatever the instant, in the end there is the whole thing with its result, or nothing at all."""
    steps: list[str] = []
    again: list[str] = []
    outcomes = []

    def fresh(k: int) -> list[str]:
        (roots / str(k)).mkdir()
        return [kind, str(roots / str(k))]

    for run in every_kill(CHILD, fresh):
        root = roots / str(run.k)
        if run.step == "metadata.commit":  # the rows' own steps come between, and end as the steps around them do
            continue
        steps.append(run.step)
        recover = ["recover", str(root)]
        again.extend(recovery.step for recovery in every_kill(CHILD, lambda _, recover=recover: recover))  # type: ignore[misc]
        outcomes.append(left_over(root))
    # The system call tells of itself, within the step that makes it.
    named = [f"{kind}.directory", f"{kind}.choose", f"{kind}.file", f"{kind}.mount", "mount", f"{kind}.finish"]
    assert steps == [*named, ""]
    # All was done before "finish": the one kind undoes it, the other ends it.
    assert outcomes == [NOTHING] * 5 + [NOTHING if kind == "make" else WHOLE, WHOLE]
    assert {f"{kind}.undo-mount", f"{kind}.undo-file", f"{kind}.undo-directory"} <= set(again)
    assert (f"{kind}.finish" in again) is (kind == "keep")
