"""Bringing a database to this program's form: numbered steps of the store, and of each table; a copy is kept first."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import msgspec
from intermodal_core.errors import FailedPrecondition, Internal

from intermodal_sqlite.schema import Layout
from intermodal_sqlite.transaction import Unreadable

__all__ = ["STORE_VERSION", "ensure_store", "ensure_table", "keep_copy", "put_in_place", "quarantine", "stored_version"]

#: Step n brings a database of version n to n + 1; kept in `PRAGMA user_version`.
_STEPS: tuple[str, ...] = (
    """
    CREATE TABLE "_tables" (name PRIMARY KEY, version NOT NULL, signature NOT NULL) WITHOUT ROWID;
    CREATE TABLE "_quarantine" (id INTEGER PRIMARY KEY, moved_at NOT NULL, table_name NOT NULL, record NOT NULL, why NOT NULL);
    """,
)

STORE_VERSION = len(_STEPS)

#: "imod" in ASCII; file(1) and SQLite's tools show it.
_APPLICATION_ID = 0x696D6F64


def ensure_store(connection: sqlite3.Connection, path: str) -> None:
    """Make or migrate the store's own tables. Raises FailedPrecondition on a newer or a foreign database."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (owner,) = connection.execute("PRAGMA application_id").fetchone()
    if version > STORE_VERSION:
        raise FailedPrecondition(
            f"metadata {path} has version {version} and this program knows version {STORE_VERSION}; use the newer program"
        )
    if owner not in (0, _APPLICATION_ID) or (owner == 0 and version):
        raise FailedPrecondition(f"metadata {path} belongs to another program; name another path")
    if version == STORE_VERSION:
        return
    if version:
        keep_copy(connection, f"{path}.before-v{version + 1}")
    connection.execute("BEGIN IMMEDIATE")
    try:
        for step in _STEPS[version:]:
            for statement in step.split(";"):
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id={_APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version={STORE_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def stored_version(connection: sqlite3.Connection, name: str) -> tuple[int, str]:
    """The version and signature of a stored table; (0, "") for one that is not there."""
    row = connection.execute('SELECT version, signature FROM "_tables" WHERE name=?', (name,)).fetchone()
    return (0, "") if row is None else (row[0], row[1])


def ensure_table(connection: sqlite3.Connection, layout: Layout, path: str, log: logging.Logger) -> None:
    """Create, migrate or re-index one table, in one transaction."""
    table = layout.table
    version, signature = stored_version(connection, table.name)
    if version > table.version:
        raise FailedPrecondition(
            f"metadata {path}: table {table.name} has version {version} and this program knows version {table.version}; "
            "use the newer program"
        )
    if (version, signature) == (table.version, layout.signature):
        return
    if 0 < version < table.version:
        keep_copy(connection, f"{path}.before-{table.name}-v{version + 1}")
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(layout.create("_new" if version else table.name))
        if version:
            _rewrite(connection, layout, version, log)
            connection.execute(f'DROP TABLE "{table.name}"')
            connection.execute(f'ALTER TABLE "_new" RENAME TO "{table.name}"')
        for statement in layout.create_indexes():
            connection.execute(statement)
        connection.execute(
            'INSERT OR REPLACE INTO "_tables" VALUES (?,?,?)', (table.name, table.version, layout.signature)
        )
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def keep_copy(connection: sqlite3.Connection, copy: str) -> None:
    """Write a whole, synced copy of the database to the path `copy`, replacing one of that name."""
    partial = f"{copy}.partial"
    for leftover in (partial, f"{partial}-journal"):
        if os.path.exists(leftover):
            os.unlink(leftover)
    target = sqlite3.connect(partial)
    try:
        connection.backup(target)
    finally:
        target.close()
    put_in_place(partial, copy)


def put_in_place(partial: str | Path, copy: str | Path) -> None:
    """Give a copy that was written as `partial` its name, once it is on the disk and nobody else's to read."""
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        os.fchmod(descriptor, 0o600)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(partial, copy)


def quarantine(connection: sqlite3.Connection, bad: list[Unreadable], log: logging.Logger) -> None:
    """Move rows that are no records out of their tables, inside the caller's transaction."""
    for row in bad:
        moved = connection.execute(f'DELETE FROM "{row.table}" WHERE record=?', (row.data,)).rowcount
        if moved:
            _record_unreadable(connection, row, log)


def _rewrite(connection: sqlite3.Connection, layout: Layout, version: int, log: logging.Logger) -> None:
    table = layout.table
    put = layout.put_sql.replace(f'INTO "{table.name}"', 'INTO "_new"', 1)
    steps = table.migrations[version - 1 :]
    rows = connection.execute(f'SELECT record FROM "{table.name}"')
    for (data,) in rows:
        try:
            plain: Any = msgspec.msgpack.decode(data)
            record = None if steps else layout.decode(data)
        except (msgspec.MsgspecError, TypeError, UnicodeDecodeError) as error:
            _record_unreadable(connection, Unreadable(table.name, data, str(error)), log)
            continue
        if steps:
            try:
                for step in steps:
                    plain = step(plain)
                # By way of bytes: the form a record is read in, whatever plain types the steps made.
                record = layout.decode(msgspec.msgpack.encode(plain))
            except Exception as error:
                raise Internal(
                    f"table {table.name}: a record of version {version} could not be brought to version {table.version} "
                    f"({error}); the database is as it was"
                ) from error
        connection.execute(put, (*layout.values(record), msgspec.msgpack.encode(record)))


def _record_unreadable(connection: sqlite3.Connection, row: Unreadable, log: logging.Logger) -> None:
    connection.execute(
        'INSERT INTO "_quarantine" (moved_at, table_name, record, why) VALUES (?,?,?,?)',
        (time.time_ns(), row.table, row.data, row.why),
    )
    log.error("a record of table %s could not be read (%s); it was moved to the table _quarantine", row.table, row.why)
