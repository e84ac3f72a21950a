"""Metadata: transactions over tables of msgspec structs that managers declare.

The plugin knows no record type: a table has a name, a struct, the fields of its key and its indexes. `fn(tx)` is a
plain function that calls no plugin and no blocking thing but `tx`. Stays in process.

Life cycle: managers `declare` their tables, when they are made -> `read` and `write`, from the daemon's loop, any number at once ->
`close`. Tables are never dropped: one that nobody declares keeps its records for a release that does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import msgspec

__all__ = ["VERSION", "MetadataStore", "Migration", "Table", "Transaction"]

VERSION = 1

R = TypeVar("R", bound=msgspec.Struct)
T = TypeVar("T")

#: A key or index value: what SQLite and every other ordered store compare alike.
Value = str | int | bytes


class Table(Generic[R]):
    """A table: its name, its record type, the fields that make its key, its indexes and its version.

    `indexes` names tuples of fields, by an index name. A record is stored as MessagePack; fields with defaults may be
    added without a new version. Any other change raises `version` by one and adds one step to `migrations`, a pure
    function from the old plain dict to the new one.
    """

    __slots__ = ("indexes", "key", "migrations", "name", "record", "version")

    def __init__(
        self,
        name: str,
        record: type[R],
        key: tuple[str, ...],
        indexes: dict[str, tuple[str, ...]] | None = None,
        migrations: tuple[Migration, ...] = (),
    ) -> None:
        self.name = name
        self.record = record
        self.key = key
        self.indexes = dict(indexes or {})
        self.migrations = migrations
        self.version = len(migrations) + 1


#: Step n of `Table.migrations` turns a record of version n, as a plain dict, into one of version n + 1.
Migration = Callable[[dict[str, object]], dict[str, object]]


class Transaction(Protocol):
    """What `fn` of `read` and `write` gets. It must not be kept after `fn` returns."""

    def get(self, table: Table[R], *key: Value) -> R | None:
        """[M1] The record of that key, or None."""

    def put(self, table: Table[R], record: R) -> None:
        """[M2] Insert or replace by key. Raises FailedPrecondition in a read transaction."""

    def delete(self, table: Table[R], *key: Value) -> bool:
        """[M3] Remove by key; whether it was there. Raises FailedPrecondition in a read transaction."""

    def scan(self, table: Table[R], *prefix: Value, index: str = "") -> Iterator[R]:
        """[M4] Records whose key (or `index`) begins with `prefix`, in the order of that key (or index).

        The iterator sees the transaction's own writes made before it was begun; writes to the table while it is open
        are the caller's mistake: collect first.
        """

    def count(self, table: Table[R], *prefix: Value, index: str = "") -> int:
        """[M5] How many records `scan` would give."""


@runtime_checkable
class MetadataStore(Protocol):
    """The store.

    [M6] `write` is atomic and durable: when it returns, power may fail. An exception of `fn` undoes what `fn` did,
         whole, and is raised to the caller; others that share the commit are not affected.
    [M7] Writes happen one after the other; a read sees all writes that returned before it began.
    [M8] No write and no short read waits for a reader.
    `rebuilt_from` names, after a loss, the older state that the store has begun again with, and is "" otherwise. Managers bring it
    up to what they find on disk and in processes, and then call `rebuilt`.

    [M13] A stored record that cannot be decoded is set aside and logged; to transactions it is not there.
    """

    rebuilt_from: str

    def declare(self, *tables: Table[Any]) -> None:
        """[M9] Make the tables known, creating or migrating them. Idempotent.

        Raises FailedPrecondition when a stored table is newer than the declared version (both are named), and
        InvalidArgument when two declarations of one name differ.
        """

    async def read(self, fn: Callable[[Transaction], T], *, long: bool = False) -> T:
        """[M10] Run `fn` on a consistent view. `long` says that it may take over a millisecond (lists)."""

    async def write(self, fn: Callable[[Transaction], T]) -> T:
        """[M11] Run `fn`, commit, return its result. Raises what `fn` raises; ResourceExhausted on a full disk."""

    def close(self) -> None:
        """[M12] Finish what was begun and let go of the files. Later calls raise Unavailable."""

    async def check(self) -> list[str]:
        """[M14] What is wrong with what is stored, a sentence each; none where all can be read."""

    def rebuilt(self) -> None:
        """[M15] `rebuilt_from` is "" from now on, and at the next load."""
