"""Who is whose parent: the records of a snapshotter, in one SQLite file.

A snapshot's files live in a place named by a number, its id; keys come and go (`commit` renames), ids never change
and are never used twice, not even after a crash. So the rule for a crash-safe snapshotter is short:

    make:    id = reserve(); make the files; create(id, ...)      a crash before `create`: files without a record
    commit:  sync the files; commit(...)                          a crash before `commit`: still active
    remove:  id = remove(key); delete the files                   a crash after `remove`: files without a record

Files without a record are garbage, and that is all that a cleanup has to know.
"""

from __future__ import annotations

import sqlite3
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from intermodal_core.contracts.common import Usage
from intermodal_core.contracts.snapshotters import Kind, SnapshotInfo
from intermodal_core.errors import (
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    IntermodalError,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from intermodal_core.filters import compile_filters, resolver_of

__all__ = ["Record", "Records"]

_VERSION: Final = 1
_SCHEMA: Final = f"""
CREATE TABLE snapshots (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    parent INTEGER REFERENCES snapshots (id),
    kind TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    labels TEXT NOT NULL,
    size INTEGER,
    inodes INTEGER
) STRICT;
CREATE INDEX children ON snapshots (parent);
CREATE TABLE ids (next INTEGER NOT NULL) STRICT;
INSERT INTO ids VALUES (1);
PRAGMA user_version = {_VERSION};
"""

# Ids are promised in blocks, so that most reservations cost no commit; what is left of a block at a crash is skipped.
_BLOCK: Final = 64

_SELECT: Final = """
    SELECT s.id, s.key, coalesce(p.key, ''), s.kind, s.created_at, s.updated_at, s.labels
    FROM snapshots s LEFT JOIN snapshots p ON p.id = s.parent
"""
_PARENTS: Final = """
    WITH RECURSIVE chain (id, depth) AS (
        SELECT parent, 1 FROM snapshots WHERE id = ?
        UNION ALL
        SELECT s.parent, depth + 1 FROM chain JOIN snapshots s ON s.id = chain.id
    )
    SELECT id FROM chain WHERE id IS NOT NULL ORDER BY depth
"""


class Record(NamedTuple):
    """A snapshot: its id, what is told of it, and the ids of its ancestors, the nearest first."""

    id: int
    info: SnapshotInfo
    parents: tuple[int, ...]


class Records:
    """The records in the file `path`, made when it is not there. Threads may share an instance; one process at a time.

    Every change is one durable transaction (WAL, synchronous=FULL). Raises DataLoss for a file that is no such
    database, FailedPrecondition for one that a newer version wrote.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()
        self._id_lock = threading.Lock()
        self._ids = iter(range(0))
        with self._translated():
            self._writer = self._open()
            try:
                self._migrate()
                self._reader = self._open()
            except BaseException:
                self._writer.close()
                raise

    # -- changes ------------------------------------------------------------------------------------------------------

    def reserve(self) -> int:
        """An id that was never given before."""
        with self._id_lock:
            number = next(self._ids, None)
            if number is None:
                with self._transaction() as db:
                    sql = "UPDATE ids SET next = next + ? RETURNING next"
                    (end,) = db.execute(sql, (_BLOCK,)).fetchall()[0]
                self._ids = iter(range(end - _BLOCK, end))
                number = next(self._ids)
            return number

    def create(
        self, number: int, key: str, kind: Kind, parent: Record | None = None, labels: Mapping[str, str] | None = None
    ) -> Record:
        """Record the snapshot whose files are in place under the reserved id `number`.

        `parent` is the record (of `parent_of`) that the files were made from. Raises InvalidArgument for an empty key,
        AlreadyExists, NotFound where the parent has been removed since.
        """
        _check_name(key)
        now = time.time_ns()
        parent_id = parent.id if parent else None
        values = (number, key, parent_id, kind, now, now, _encode(labels))
        with self._transaction() as db:
            _check_free(db, key)
            if parent and not db.execute("SELECT 1 FROM snapshots WHERE id = ?", (parent.id,)).fetchone():
                raise NotFound(f"Parent snapshot {parent.info.key!r} of {key!r} was removed meanwhile")
            db.execute(
                "INSERT INTO snapshots (id, key, parent, kind, created_at, updated_at, labels)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                values,
            )
        info = SnapshotInfo(key, parent.info.key if parent else "", kind, now, now, dict(labels or {}))
        return Record(number, info, (parent.id, *parent.parents) if parent else ())

    def commit(
        self, name: str, key: str, labels: Mapping[str, str] | None = None, parent: Record | None = None
    ) -> Record:
        """Turn the active snapshot `key` into the committed `name`; with `parent`, put it on top of that (rebase).

        Raises AlreadyExists for `name`, NotFound for `key` or a parent that was removed, FailedPrecondition for a key
        that is not active, InvalidArgument for an empty name or a rebase of a snapshot that has another parent.
        """
        _check_name(name)
        now = time.time_ns()
        with self._transaction() as db:
            record = _get(db, key)
            if record.info.kind != "active":
                raise FailedPrecondition(f"Snapshot {key!r} is {record.info.kind}: only an active one can be committed")
            _check_free(db, name)
            parent_id = record.parents[0] if record.parents else None
            if parent and parent.id != parent_id:
                if parent_id is not None:
                    raise InvalidArgument(
                        f"Snapshot {key!r} has the parent {record.info.parent!r}, it cannot move to {parent.info.key!r}"
                    )
                if not db.execute("SELECT 1 FROM snapshots WHERE id = ?", (parent.id,)).fetchone():
                    raise NotFound(f"Parent snapshot {parent.info.key!r} of {name!r} was removed meanwhile")
                parent_id = parent.id
            db.execute(
                "UPDATE snapshots SET key = ?, kind = 'committed', parent = ?, labels = ?, updated_at = ? WHERE id = ?",
                (name, parent_id, _encode(labels), now, record.id),
            )
            return _get(db, name)

    def remove(self, key: str) -> int:
        """Forget a snapshot; its id tells whose files to delete. Raises NotFound, FailedPrecondition (has children)."""
        with self._transaction() as db:
            number = _get(db, key).id
            child = db.execute("SELECT key FROM snapshots WHERE parent = ?", (number,)).fetchone()
            if child:
                raise FailedPrecondition(f"Snapshot {key!r} has children, {child[0]!r} among them: remove them first")
            db.execute("DELETE FROM snapshots WHERE id = ?", (number,))
        return number

    def update(self, key: str, labels: Mapping[str, str]) -> SnapshotInfo:
        """Replace the labels. Raises NotFound."""
        with self._transaction() as db:
            number = _get(db, key).id
            db.execute(
                "UPDATE snapshots SET labels = ?, updated_at = ? WHERE id = ?",
                (_encode(labels), time.time_ns(), number),
            )
            return _get(db, key).info

    def keep_usage(self, number: int, usage: Usage) -> None:
        """Remember the usage of a committed snapshot, which cannot change any more."""
        with self._transaction() as db:
            db.execute(
                "UPDATE snapshots SET size = ?, inodes = ? WHERE id = ? AND kind = 'committed'", (*_pair(usage), number)
            )

    # -- questions ----------------------------------------------------------------------------------------------------

    def get(self, key: str) -> Record:
        """The record of `key`. Raises NotFound."""
        with self._reading() as db:
            return _get(db, key)

    def parent_of(self, name: str) -> Record:
        """The record of `name`, which is to be a parent. Raises NotFound, InvalidArgument where it is not committed."""
        record = self.get(name)
        if record.info.kind != "committed":
            raise InvalidArgument(f"Snapshot {name!r} is {record.info.kind}: only a committed one can be a parent")
        return record

    def check_free(self, key: str) -> None:
        """Raises InvalidArgument for an empty key and AlreadyExists for one in use: an early word, `create` decides."""
        _check_name(key)
        with self._reading() as db:
            _check_free(db, key)

    def kept_usage(self, number: int) -> Usage | None:
        """What `keep_usage` kept."""
        with self._reading() as db:
            row = db.execute("SELECT size, inodes FROM snapshots WHERE id = ?", (number,)).fetchone()
        return Usage(row[0], row[1]) if row and row[0] is not None else None

    def walk(self, filters: tuple[str, ...] = ()) -> Iterator[SnapshotInfo]:
        """The snapshots of one moment that match any of `filters`, in order of their keys. Raises InvalidArgument."""
        matches = compile_filters(list(filters))
        with self._reading() as db:
            rows = db.execute(_SELECT + "ORDER BY s.key").fetchall()
        return (info for info in map(_info, rows) if matches(resolver_of(_fields(info))))

    def ids(self) -> set[int]:
        """The ids of all snapshots."""
        with self._reading() as db:
            return {number for (number,) in db.execute("SELECT id FROM snapshots")}

    def close(self) -> None:
        """Close the file; idempotent. A call under way ends first, a later one raises FailedPrecondition."""
        with self._write_lock, self._read_lock:
            self._reader.close()
            self._writer.close()

    # -- SQLite -------------------------------------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=30)
        try:
            # Small caches: a daemon keeps these connections for good.
            db.executescript(
                "PRAGMA cache_size = -256; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
                "PRAGMA foreign_keys = ON; PRAGMA journal_size_limit = 1048576;"
            )
        except BaseException:
            db.close()
            raise
        return db

    def _migrate(self) -> None:
        with self._transaction() as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version > _VERSION:
                raise FailedPrecondition(
                    f"{self.path} was written by a newer version (format {version}, this one knows {_VERSION})"
                )
            if version == 0:
                for statement in _SCHEMA.split(";"):
                    db.execute(statement)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._write_lock, self._translated():
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                sys.audit("intermodal.step", "snapshots.change")
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise
        sys.audit("intermodal.step", "snapshots.changed")

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._read_lock, self._translated():
            self._reader.execute("BEGIN")
            try:
                yield self._reader
            finally:
                self._reader.execute("COMMIT")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._by_meaning(error) from error

    def _by_meaning(self, error: sqlite3.Error) -> IntermodalError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            return ResourceExhausted(f"{self.path} cannot be written ({error}): is the disk full?")
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return DataLoss(f"{self.path} is damaged ({error}): restore it, or remove it with all snapshots")
        if isinstance(error, sqlite3.ProgrammingError) and "closed" in str(error):
            return FailedPrecondition(f"{self.path} is closed")
        return Internal(f"{self.path}: {error}")


def _get(db: sqlite3.Connection, key: str) -> Record:
    row = db.execute(_SELECT + "WHERE s.key = ?", (key,)).fetchone()
    if row is None:
        raise NotFound(f"There is no snapshot {key!r}")
    parents = tuple(number for (number,) in db.execute(_PARENTS, (row[0],)).fetchall())
    return Record(row[0], _info(row), parents)


def _check_name(key: str) -> None:
    if not key:
        raise InvalidArgument("A snapshot's key must not be empty")


def _check_free(db: sqlite3.Connection, key: str) -> None:
    if db.execute("SELECT 1 FROM snapshots WHERE key = ?", (key,)).fetchone():
        raise AlreadyExists(f"There is a snapshot {key!r} already")


def _info(row: Any) -> SnapshotInfo:
    _number, key, parent, kind, created_at, updated_at, labels = row
    return SnapshotInfo(key, parent, kind, created_at, updated_at, msgspec.json.decode(labels, type=dict[str, str]))


def _fields(info: SnapshotInfo) -> dict[str, Any]:
    """What filters can ask for, under containerd's names."""
    return {"name": info.key, "parent": info.parent, "kind": info.kind, "labels": info.labels}


def _encode(labels: Mapping[str, str] | None) -> str:
    return msgspec.json.encode(dict(labels or {})).decode()


def _pair(usage: Usage) -> tuple[int, int]:
    return usage.size, usage.inodes
