"""What `fn` of `read` and `write` gets."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec
from intermodal_core.contracts.metadata import Table, Value
from intermodal_core.errors import FailedPrecondition, InvalidArgument

from intermodal_sqlite.schema import Layout

__all__ = ["Reading", "Unreadable", "Writing"]

R = TypeVar("R", bound=msgspec.Struct)

_encode = msgspec.msgpack.Encoder().encode


class Unreadable(NamedTuple):
    """A stored row that is no record of its table."""

    table: str
    data: bytes
    why: str


class Reading:
    """A read transaction: a consistent view. `unreadable` collects what could not be decoded."""

    __slots__ = ("_connection", "_cursors", "_layouts", "unreadable")

    def __init__(self, connection: sqlite3.Connection, layouts: Mapping[str, Layout]) -> None:
        self._connection: sqlite3.Connection | None = connection
        self._layouts = layouts
        self._cursors: list[sqlite3.Cursor] = []
        self.unreadable: list[Unreadable] = []

    def get(self, table: Table[R], *key: Value) -> R | None:
        """[M1]."""
        layout = self._layout(table)
        layout.check_key(key)
        row = self._execute(layout.get_sql, key).fetchone()
        return None if row is None else self._decode(layout, row[0])

    def scan(self, table: Table[R], *prefix: Value, index: str = "") -> Iterator[R]:
        """[M4]."""
        layout = self._layout(table)
        cursor = self._execute(layout.select("record", len(prefix), index), prefix)
        # An unfinished SELECT would hold the view of this transaction past its end.
        self._cursors.append(cursor)
        return self._records(layout, cursor)

    def count(self, table: Table[R], *prefix: Value, index: str = "") -> int:
        """[M5]."""
        layout = self._layout(table)
        row = self._execute(layout.select("count(*)", len(prefix), index), prefix).fetchone()
        return int(row[0])

    def put(self, table: Table[R], record: R) -> None:
        """[M2]."""
        raise FailedPrecondition(f"table {table.name}: put in a read transaction; use write")

    def delete(self, table: Table[R], *key: Value) -> bool:
        """[M3]."""
        raise FailedPrecondition(f"table {table.name}: delete in a read transaction; use write")

    def end(self) -> None:
        """Let go of the connection; what was kept of this transaction raises from now on."""
        for cursor in self._cursors:
            cursor.close()
        self._connection = None

    def _records(self, layout: Layout, cursor: sqlite3.Cursor) -> Iterator[Any]:
        for (data,) in cursor:
            record = self._decode(layout, data)
            if record is not None:
                yield record

    def _decode(self, layout: Layout, data: bytes) -> Any:
        try:
            return layout.decode(data)
        except (msgspec.MsgspecError, TypeError, UnicodeDecodeError) as error:
            self.unreadable.append(Unreadable(layout.table.name, data, str(error)))
            return None

    def _execute(self, sql: str, values: tuple[Value, ...]) -> sqlite3.Cursor:
        if self._connection is None:
            raise FailedPrecondition("a metadata transaction was used after its function returned; use it only inside")
        try:
            return self._connection.execute(sql, values)
        except (OverflowError, UnicodeEncodeError) as error:
            raise InvalidArgument(f"a key or index value cannot be stored: {error}") from None

    def _layout(self, table: Table[Any]) -> Layout:
        layout = self._layouts.get(table.name)
        if layout is None:
            raise FailedPrecondition(f"table {table.name} is not declared; call declare first")
        return layout


class Writing(Reading):
    """A write transaction."""

    __slots__ = ()

    def put(self, table: Table[R], record: R) -> None:
        """[M2]."""
        layout = self._layout(table)
        if not isinstance(record, table.record):
            raise InvalidArgument(f"table {table.name} takes {table.record.__name__}, not {type(record).__name__}")
        try:
            data = _encode(record)
        except (OverflowError, UnicodeEncodeError, TypeError) as error:
            raise InvalidArgument(f"table {table.name}: the record cannot be encoded: {error}") from None
        self._execute(layout.put_sql, (*layout.values(record), data))

    def delete(self, table: Table[R], *key: Value) -> bool:
        """[M3]."""
        layout = self._layout(table)
        layout.check_key(key)
        return self._execute(layout.delete_sql, key).rowcount > 0
