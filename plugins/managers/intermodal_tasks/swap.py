"""A container goes over to another runtime: an operation, whose undo brings the old one back."""

from __future__ import annotations

import secrets
from typing import Protocol

import msgspec
from intermodal_core.contracts.managers.lifecycle import SwapReport
from intermodal_core.contracts.managers.store import Choice, Container, Scope, Store
from intermodal_core.contracts.metadata import Transaction
from intermodal_core.contracts.runtimes import RuntimeInfo
from intermodal_core.errors import FailedPrecondition, IntermodalError, NotFound
from intermodal_operations import Operation, Runner, Step

from intermodal_tasks.changes import Changes

__all__ = ["Swapping", "Turns"]

#: Capabilities of which somebody who uses the container knows.
_SEEN = frozenset({"exec", "pause", "update", "stats", "checkpoint", "terminal", "attach"})


class Turns(Protocol):
    """How a container is stopped and started."""

    async def is_running(self, scope: Scope, id: str) -> bool:
        """Whether it has a task that has not ended."""

    async def turn_off(self, scope: Scope, id: str, timeout: float) -> None:
        """Stop it, and delete its task; not restarted by its policy meanwhile. Idempotent."""

    async def turn_on(self, scope: Scope, id: str) -> None:
        """Start it, detached, unless it runs."""


class _Swap(msgspec.Struct):
    """State of the operation."""

    namespace: str
    id: str
    before: Choice
    after: Choice
    snapshotter_before: str
    snapshotter_after: str
    snapshot_before: str
    snapshot_after: str
    runs: bool
    timeout: float


class Swapping:
    """The operation `containers.swap`."""

    def __init__(self, operations: Runner, store: Store, turns: Turns, changes: Changes) -> None:
        self._operations = operations
        self._changes = changes
        self._store = store
        self._turns = turns
        operations.register(
            Operation(
                "containers.swap",
                _Swap,
                (
                    Step("stop", self._stop, self._start_again),
                    Step("snapshot", self._copy, self._uncopy),
                    Step("pin", self._pin, self._pin_again),
                    Step("start", self._start, self._stop),
                ),
            )
        )

    async def run(
        self, scope: Scope, record: Container, runtime: str, snapshotter: str, dry_run: bool, timeout: float = 10.0
    ) -> SwapReport:
        """See `Lifecycle.swap`."""
        assert record.choice is not None
        before = record.choice
        moves = snapshotter not in ("", record.snapshotter)
        after = before
        if runtime:
            after = await self._store.pin(record.namespace, record.image, record.labels, runtime)
        if moves:
            about = (record.namespace, record.image, record.labels)
            snapshotter, _ = await self._store.choose("snapshotter", *about, snapshotter, runtime=after.instance)
        if after.instance == before.instance and after.options == before.options and not moves:
            raise FailedPrecondition(f"the container {record.id} is on {before.instance} already: name another runtime")
        old, new = await self._store.runtime(before), await self._store.runtime(after)
        hides = (await old.info()).hides_writes, (await new.info()).hides_writes
        for which, option in ((before, hides[0]), (after, hides[1])):
            if option:
                raise FailedPrecondition(
                    f"the container {record.id} cannot be swapped: what it writes on {which.instance} stays in an overlay"
                    f" of the sandbox's own; take away the option {option}"
                )
        differences = []
        if after is not before:
            differences = await self._differences(record, before, after, await old.info(), await new.info())
        if moves:
            differences.append(f"the snapshotter is {snapshotter} instead of {record.snapshotter}")
        differences += await new.review(record.spec.value if record.spec else b"{}")
        report = SwapReport(record.id, before.instance, after.instance, tuple(differences), done=not dry_run)
        if dry_run:
            return report
        runs = await self._turns.is_running(scope, record.id)
        key = f"{record.id}-{secrets.token_hex(4)}" if moves else record.snapshot_key
        snapshots = record.snapshotter, snapshotter if moves else record.snapshotter, record.snapshot_key, key
        state = _Swap(record.namespace, record.id, before, after, *snapshots, runs, timeout)

        def forget(tx: Transaction) -> None:
            if moves:
                self._store.snapshots.forget(tx, record.namespace, record.snapshotter, record.snapshot_key)

        try:
            await self._operations.run("containers.swap", state, forget)
        except IntermodalError as error:
            back = f"; it is on {before.instance} again" + (", and runs" if runs else "")
            raise type(error)(f"the container {record.id} does not start on {after.instance}: {error}{back}") from error
        if moves:
            self._store.removed()
        return report

    async def _differences(
        self, record: Container, before: Choice, after: Choice, old: RuntimeInfo, new: RuntimeInfo
    ) -> list[str]:
        found = [f"the runtime is {new.binary} ({new.version}) instead of {old.binary} ({old.version})"]
        lost = sorted(_SEEN & set(self._store.capabilities(before)) - set(self._store.capabilities(after)))
        if lost:
            found.append(f"{after.instance} cannot do: {', '.join(lost)}")
        if record.runtime_options is not None and before.plugin != after.plugin:
            found.append(
                f"the options of the type {record.runtime_options.type_url} are {before.plugin}'s, and left out"
            )
        return found

    async def _stop(self, state: _Swap) -> None:
        await self._turns.turn_off(Scope(state.namespace), state.id, state.timeout)

    async def _start_again(self, state: _Swap) -> None:
        if state.runs:
            try:
                await self._turns.turn_on(Scope(state.namespace), state.id)
            except NotFound:
                pass  # removed meanwhile

    async def _copy(self, state: _Swap) -> None:
        if state.snapshot_after != state.snapshot_before:
            scope = Scope(state.namespace)
            record = await self._store.containers.get(scope, state.id)
            await self._changes.copy(scope, record, state.snapshotter_after, state.snapshot_after)

    async def _uncopy(self, state: _Swap) -> None:
        if state.snapshot_after != state.snapshot_before:
            try:
                await self._store.snapshots.remove(
                    Scope(state.namespace), state.snapshotter_after, state.snapshot_after
                )
            except NotFound:
                pass

    async def _pin(self, state: _Swap) -> None:
        await self._repin(state, state.after, state.snapshotter_after, state.snapshot_after)

    async def _pin_again(self, state: _Swap) -> None:
        try:
            await self._repin(state, state.before, state.snapshotter_before, state.snapshot_before)
        except NotFound:
            pass  # removed meanwhile

    async def _repin(self, state: _Swap, choice: Choice, snapshotter: str, key: str) -> None:
        def repin(tx: Transaction) -> None:
            self._store.containers.repin(tx, state.namespace, state.id, choice, snapshotter, key)

        await self._store.write(repin)

    async def _start(self, state: _Swap) -> None:
        if state.runs:
            await self._turns.turn_on(Scope(state.namespace), state.id)
