"""What an operation is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import msgspec
from intermodal_core.contracts.metadata import Table, Transaction
from intermodal_core.errors import InvalidArgument

__all__ = ["OPERATIONS", "Operation", "Records", "Row", "Step", "Stuck", "Timing"]

S = TypeVar("S", bound=msgspec.Struct)
T = TypeVar("T")


class Records(Protocol):
    """Where operations are recorded: a metadata store, or a manager that adds to what `write` does."""

    def declare(self, *tables: Table[Any]) -> None:
        """As `MetadataStore.declare`."""

    async def read(self, fn: Callable[[Transaction], T], *, long: bool = False) -> T:
        """As `MetadataStore.read`."""

    async def write(self, fn: Callable[[Transaction], T]) -> T:
        """As `MetadataStore.write`."""


@dataclass(frozen=True, slots=True)
class Step(Generic[S]):
    """One change of the world outside metadata.

    `do` makes it. `undo` unmakes it: it is idempotent, and is also called when `do` happened by half, or not at all (a
    crash does not tell). `seen` says whether the change is there, whole. All get the operation's state; what they need
    is in it, best as names that were chosen before the first step. Where `do` learns something that `undo` needs, it
    sets a field of the state: the row is written again before the next step begins.
    """

    name: str
    do: Callable[[S], Awaitable[None]]
    undo: Callable[[S], Awaitable[None]] | None = None
    seen: Callable[[S], Awaitable[bool]] | None = None


@dataclass(frozen=True, slots=True)
class Operation(Generic[S]):
    """A kind of operation: its name, the type of its state, its steps.

    `forward`: a left-over one whose steps are all seen is finished rather than undone, by `finish(tx, state)`, which
    records the result. A kind that is not forward may leave `finish` to each run.
    """

    name: str
    state: type[S]
    steps: tuple[Step[S], ...]
    forward: bool = False
    finish: Callable[[Transaction, S], Any] | None = None

    def __post_init__(self) -> None:
        names = [step.name for step in self.steps]
        if len(set(names)) != len(names):
            raise InvalidArgument(f"operation {self.name}: two steps have one name: {names}")
        if self.forward and (self.finish is None or any(step.seen is None for step in self.steps)):
            raise InvalidArgument(f"operation {self.name} is forward: it needs finish, and seen on every step")


@dataclass(frozen=True, slots=True)
class Stuck:
    """An operation that could not be undone or finished: why, how often it was tried, the time of the next try (ns).

    `retry_at` 0: it is not tried again before the next start.
    """

    kind: str
    id: str
    why: str
    attempts: int
    retry_at: int


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time of one operation went: seconds by step, in order, the two writes of its row included.

    `outcome` is "done", "undone" or "stuck".
    """

    kind: str
    started_at: int
    steps: tuple[tuple[str, float], ...]
    outcome: str


class Row(msgspec.Struct, frozen=True):
    """A begun operation: all that its end needs."""

    owner: str
    id: str
    kind: str
    state: bytes
    started_at: int


#: One table for all runners of a store; each minds the rows of its own name.
OPERATIONS: Table[Row] = Table("operations", Row, key=("owner", "id"))
