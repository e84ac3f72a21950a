"""How a declared table is laid out in SQLite.

A table is columns for the fields of its key and its indexes, and `record`, the whole record as MessagePack. Columns have
no type, so that values are kept and compared as they are: integers before text before bytes, text and bytes by memcmp.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import msgspec
from intermodal_core.contracts.metadata import Table, Value
from intermodal_core.errors import InvalidArgument

__all__ = ["Layout", "same_declaration"]

_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")


class Layout:
    """The SQL and the codec of one table, made once.

    `signature` changes whenever stored rows must be written anew for another reason than a version.
    """

    __slots__ = (
        "columns",
        "decode",
        "delete_sql",
        "get_sql",
        "orders",
        "put_sql",
        "signature",
        "sql_cache",
        "table",
        "values",
    )

    def __init__(self, table: Table[Any]) -> None:
        _check(table)
        self.table = table
        fields = [*table.key, *(name for index in table.indexes.values() for name in index)]
        self.columns = tuple(dict.fromkeys(fields))
        self.values = _getter(self.columns)
        self.decode: Callable[[bytes], Any] = msgspec.msgpack.Decoder(table.record).decode
        self.orders = {"": table.key}
        for name, index in table.indexes.items():
            self.orders[name] = (*index, *(key for key in table.key if key not in index))
        where = " AND ".join(f'"{key}"=?' for key in table.key)
        marks = ",".join("?" * (len(self.columns) + 1))
        self.get_sql = f'SELECT record FROM "{table.name}" WHERE {where}'
        self.put_sql = f'INSERT OR REPLACE INTO "{table.name}" ({_list(self.columns)},record) VALUES ({marks})'
        self.delete_sql = f'DELETE FROM "{table.name}" WHERE {where}'
        self.signature = repr((table.key, sorted(table.indexes.items())))
        self.sql_cache: dict[tuple[str, int, str], str] = {}

    def create(self, name: str) -> str:
        """The statement that makes the table under `name`."""
        columns = ", ".join(f'"{column}" NOT NULL' for column in self.columns)
        return f'CREATE TABLE "{name}" ({columns}, record BLOB NOT NULL, PRIMARY KEY ({_list(self.table.key)})) WITHOUT ROWID'

    def create_indexes(self) -> list[str]:
        """The statements that make the indexes."""
        return [
            f'CREATE INDEX "{self.table.name}/{name}" ON "{self.table.name}" ({_list(self.orders[name])})'
            for name in self.table.indexes
        ]

    def select(self, what: str, prefix: int, index: str) -> str:
        """The statement for rows whose order `index` ("": the key) begins with `prefix` given values."""
        known = self.sql_cache.get((what, prefix, index))
        if known is not None:
            return known
        order = self.orders.get(index)
        if order is None:
            raise InvalidArgument(
                f"table {self.table.name} has no index {index!r}; it has {sorted(self.table.indexes)}"
            )
        if prefix > len(order):
            raise InvalidArgument(f"table {self.table.name}: a prefix of {prefix} values is longer than {order}")
        where = " AND ".join(f'"{column}"=?' for column in order[:prefix]) or "1"
        sql = f'SELECT {what} FROM "{self.table.name}" WHERE {where}'
        if what == "record":
            sql += f" ORDER BY {_list(order)}"
        self.sql_cache[what, prefix, index] = sql
        return sql

    def check_key(self, key: tuple[Value, ...]) -> None:
        """Raise InvalidArgument unless `key` has a value for each field of the key."""
        if len(key) != len(self.table.key):
            raise InvalidArgument(f"table {self.table.name} has the key {self.table.key}; {len(key)} values were given")


def same_declaration(one: Table[Any], other: Table[Any]) -> bool:
    """Whether two tables of one name say the same."""
    return one is other or all(
        getattr(one, part) == getattr(other, part) for part in ("record", "key", "indexes", "version")
    )


def _check(table: Table[Any]) -> None:
    if not table.key:
        raise InvalidArgument(f"table {table.name}: the key has no fields")
    fields = set(table.record.__struct_fields__)
    for name in (table.name, *table.indexes, *table.key, *(f for index in table.indexes.values() for f in index)):
        if not _NAME.match(name) or name == "record":
            raise InvalidArgument(f"table {table.name}: {name!r} is no name; use lower-case words joined by _")
    for field in (*table.key, *(f for index in table.indexes.values() for f in index)):
        if field not in fields:
            raise InvalidArgument(f"table {table.name}: {table.record.__name__} has no field {field!r}")


def _getter(columns: tuple[str, ...]) -> Callable[[Any], tuple[Value, ...]]:
    if len(columns) == 1:
        single = attrgetter(columns[0])
        return lambda record: (single(record),)
    return attrgetter(*columns)


def _list(columns: tuple[str, ...]) -> str:
    return ",".join(f'"{column}"' for column in columns)
