"""Runs operations, and ends those that a crash left."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import sys
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import msgspec
from intermodal_core.contracts.metadata import Transaction
from intermodal_core.errors import DataLoss, FailedPrecondition, InvalidArgument

from intermodal_operations.model import OPERATIONS, Operation, Records, Row, Step, Stuck, Timing

__all__ = ["Runner"]

S = TypeVar("S", bound=msgspec.Struct)
T = TypeVar("T")

_encode = msgspec.msgpack.Encoder().encode

#: Seconds before the first and at most between two tries at a stuck operation.
_FIRST_RETRY, _LAST_RETRY = 1.0, 60.0


class Runner:
    """Runs the operations of one `owner` (a manager's name; rows of other owners are not touched).

    Before each `do` and each `undo`, and before the result is recorded, the audit event "intermodal.step" is raised
    with "KIND.STEP", "KIND.undo-STEP" and "KIND.finish".
    """

    def __init__(self, metadata: Records, owner: str, *, keep: int = 64, log: logging.Logger | None = None) -> None:
        metadata.declare(OPERATIONS)
        self._metadata = metadata
        self._owner = owner
        self._log = log or logging.getLogger(__name__)
        self._kinds: dict[str, Operation[Any]] = {}
        self._running: set[str] = set()
        self._stuck: dict[str, Stuck] = {}
        self._retries: dict[str, asyncio.Task[None]] = {}
        self._timings: deque[Timing] = deque(maxlen=keep)

    def register(self, *operations: Operation[Any]) -> None:
        """Make kinds known, by their names. Raises InvalidArgument for a name that is taken."""
        for operation in operations:
            if operation.name in self._kinds:
                raise InvalidArgument(f"the operation {operation.name} is registered already; use another name")
            self._kinds[operation.name] = operation

    async def run(self, kind: str, state: S, finish: Callable[[Transaction], T] | None = None) -> T:
        """Run one operation; returns what `finish(tx)` (else the kind's `finish(tx, state)`) returned.

        Raises what a step or `finish` raised, after the begun steps were undone in reverse. Where an undo fails as well,
        that first error is still the one raised, and the operation is stuck: tried again later, and listed. A caller
        that is cancelled waits for the undo; a result being recorded is not undone any more.
        """
        operation = self._kinds.get(kind)
        if operation is None:
            raise InvalidArgument(f"no operation {kind} is registered; there are {sorted(self._kinds)}")
        at_end = operation.finish
        if finish is None and at_end is None:
            raise InvalidArgument(f"operation {kind} has no finish of its own; give one")
        now = time.time_ns()
        row = Row(self._owner, f"{now:020}-{secrets.token_hex(4)}", kind, _encode(state), now)
        watch = _Watch()
        begun: list[Step[S]] = []
        written = recorded = False

        def record(tx: Transaction) -> Any:
            tx.delete(OPERATIONS, row.owner, row.id)
            return finish(tx) if finish is not None else at_end(tx, state) if at_end is not None else None

        async def begin() -> None:
            nonlocal written
            await self._metadata.write(lambda tx: tx.put(OPERATIONS, row))
            written = True

        async def commit() -> T:
            nonlocal recorded
            result: T = await self._metadata.write(record)
            recorded = True
            return result

        self._running.add(row.id)
        try:
            await _to_its_end(begin())
            watch.lap("begin")
            for step in operation.steps:
                sys.audit("intermodal.step", f"{kind}.{step.name}")
                begun.append(step)
                await step.do(state)
                watch.lap(step.name)
                row = await self._saved(row, state)
            sys.audit("intermodal.step", f"{kind}.finish")
            result = await _to_its_end(commit())
            watch.lap("finish")
            return result
        except BaseException:
            if written and not recorded:
                await _to_its_end(self._give_up(row, state, begun))
                watch.lap("undo")
            raise
        finally:
            self._running.discard(row.id)
            outcome = "done" if recorded else "stuck" if row.id in self._stuck else "undone"
            self._timings.append(Timing(kind, row.started_at, tuple(watch.laps), outcome))

    async def recover(self, deadline_each: float) -> list[Stuck]:
        """End what a crash left, all at once, each within `deadline_each` seconds. Returns those that are stuck.

        To be called at start, once all kinds are registered. It raises only when the rows cannot be read.
        """
        rows = await self._metadata.read(lambda tx: list(tx.scan(OPERATIONS, self._owner)), long=True)
        await asyncio.gather(*(self._attempt(row, deadline_each) for row in rows if row.id not in self._running))
        return self.stuck()

    async def begun(self, kind: str, state: type[S]) -> list[S]:
        """The states of the operations of a kind that are recorded as begun; one that cannot be decoded is left out."""
        rows = await self._metadata.read(lambda tx: list(tx.scan(OPERATIONS, self._owner)), long=True)
        states = []
        for row in rows:
            if row.kind == kind:
                with contextlib.suppress(DataLoss):
                    states.append(_decoded(row, state))
        return states

    def stuck(self) -> list[Stuck]:
        """Operations that could not be ended so far, the oldest first."""
        return [self._stuck[key] for key in sorted(self._stuck)]

    def timings(self) -> list[Timing]:
        """The last operations that ended, the oldest first."""
        return list(self._timings)

    async def close(self) -> None:
        """Stop trying at stuck operations; the next start takes them up. Operations under way are not waited for."""
        tasks = list(self._retries.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _saved(self, row: Row, state: msgspec.Struct) -> Row:
        encoded = _encode(state)
        if encoded == row.state:
            return row
        changed = msgspec.structs.replace(row, state=encoded)
        await _to_its_end(self._metadata.write(lambda tx: tx.put(OPERATIONS, changed)))
        return changed

    async def _give_up(self, row: Row, state: msgspec.Struct, begun: list[Step[Any]]) -> None:
        try:
            # A failed step may have learnt something before it failed.
            row = await self._saved(row, state)
        except Exception as error:
            self._log.warning("operation %s %s: its state could not be saved: %s", row.kind, row.id, error)
        try:
            await self._undo(row, state, begun)
        except Exception as error:
            # The caller is told that it failed: a later try may only undo.
            self._set_stuck(row, _words(error), _LAST_RETRY, forward=False)

    async def _undo(self, row: Row, state: msgspec.Struct, begun: list[Step[Any]]) -> None:
        # A failed undo ends it here: what came before may only be unmade once this is (no removal below a mount).
        for step in reversed(begun):
            if step.undo is not None:
                sys.audit("intermodal.step", f"{row.kind}.undo-{step.name}")
                await step.undo(state)
        await self._metadata.write(lambda tx: tx.delete(OPERATIONS, row.owner, row.id))

    async def _attempt(self, row: Row, deadline: float, *, forward: bool = True) -> None:
        retry = row.kind in self._kinds
        try:
            async with asyncio.timeout(deadline):
                await self._end(row, forward)
        except TimeoutError:
            self._set_stuck(row, f"not done within {deadline:g} s", deadline, forward=forward)
        except DataLoss as error:
            self._set_stuck(row, _words(error), deadline, retry=False)
        except Exception as error:
            self._set_stuck(row, _words(error), deadline, forward=forward, retry=retry)
        else:
            self._stuck.pop(row.id, None)

    async def _end(self, row: Row, forward: bool) -> None:
        operation = self._kinds.get(row.kind)
        if operation is None:
            raise FailedPrecondition(f"no operation {row.kind} is registered; install what began it")
        state = _decoded(row, operation.state)
        finish = operation.finish
        if forward and operation.forward and finish is not None and await _all_seen(operation, state):
            sys.audit("intermodal.step", f"{row.kind}.finish")

            def record(tx: Transaction) -> None:
                finish(tx, state)
                tx.delete(OPERATIONS, row.owner, row.id)

            await self._metadata.write(record)
        else:
            await self._undo(row, state, list(operation.steps))

    def _set_stuck(self, row: Row, why: str, deadline: float, *, forward: bool = True, retry: bool = True) -> None:
        known = self._stuck.get(row.id)
        attempts = known.attempts + 1 if known else 1
        delay = min(_FIRST_RETRY * 2 ** (attempts - 1), _LAST_RETRY)
        retry_at = time.time_ns() + int(delay * 1e9) if retry else 0
        self._stuck[row.id] = Stuck(row.kind, row.id, why, attempts, retry_at)
        self._log.warning("operation %s %s is stuck (try %d): %s", row.kind, row.id, attempts, why)
        if retry and row.id not in self._retries:
            task = asyncio.get_running_loop().create_task(self._retry(row, deadline, forward))
            self._retries[row.id] = task
            task.add_done_callback(lambda _: self._retries.pop(row.id, None))

    async def _retry(self, row: Row, deadline: float, forward: bool) -> None:
        while (stuck := self._stuck.get(row.id)) is not None and stuck.retry_at:
            await asyncio.sleep((stuck.retry_at - time.time_ns()) / 1e9)
            await self._attempt(row, deadline, forward=forward)


class _Watch:
    """A stop-watch with named laps."""

    def __init__(self) -> None:
        self.laps: list[tuple[str, float]] = []
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps.append((name, now - self._last))
        self._last = now


def _decoded(row: Row, state: type[S]) -> S:
    try:
        return msgspec.msgpack.decode(row.state, type=state)
    except msgspec.MsgspecError as error:
        raise DataLoss(f"the state of the operation {row.kind} {row.id} cannot be decoded: {error}") from error


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


async def _all_seen(operation: Operation[S], state: S) -> bool:
    for step in operation.steps:
        if step.seen is None or not await step.seen(state):
            return False
    return True


async def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Await `work` whole, whatever cancellations come; one that came is raised afterwards."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
        except BaseException:
            break
    if cancelled is not None and not task.cancelled():
        if (failure := task.exception()) is not None:
            raise failure
        raise cancelled
    return task.result()
