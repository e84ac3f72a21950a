"""SQLite's failures, told by meaning."""

from __future__ import annotations

import sqlite3

from intermodal_core.errors import (
    DataLoss,
    FailedPrecondition,
    IntermodalError,
    Internal,
    InvalidArgument,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)

__all__ = ["translated"]

#: Primary result codes, https://www.sqlite.org/rescode.html
_BY_CODE: dict[int, tuple[type[IntermodalError], str]] = {
    sqlite3.SQLITE_FULL: (ResourceExhausted, "the disk is full; free some space and try again"),
    sqlite3.SQLITE_NOMEM: (ResourceExhausted, "out of memory"),
    sqlite3.SQLITE_TOOBIG: (InvalidArgument, "a record is too big"),
    sqlite3.SQLITE_BUSY: (Unavailable, "another process holds the database; end it or try again"),
    sqlite3.SQLITE_LOCKED: (Unavailable, "the database is locked; try again"),
    sqlite3.SQLITE_INTERRUPT: (Unavailable, "interrupted; try again"),
    sqlite3.SQLITE_CANTOPEN: (Unavailable, "cannot be opened; see that its directory exists and is writable"),
    sqlite3.SQLITE_READONLY: (FailedPrecondition, "the database is read-only; see its mode and its filesystem"),
    sqlite3.SQLITE_PERM: (PermissionDenied, "access was denied; see the mode of the file"),
    sqlite3.SQLITE_CONSTRAINT: (InvalidArgument, "a key or index field is None"),
    sqlite3.SQLITE_MISMATCH: (InvalidArgument, "a key or index field has the wrong type"),
    sqlite3.SQLITE_CORRUPT: (
        DataLoss,
        "the database is damaged; imod fsck --rebuild and a restart go back to the newest good copy",
    ),
    sqlite3.SQLITE_NOTADB: (
        DataLoss,
        "the file is no SQLite database; imod fsck --rebuild and a restart go back to the newest good copy",
    ),
    sqlite3.SQLITE_IOERR: (DataLoss, "the disk failed; see the kernel's log"),
}

#: The -shm file is made to grow by writing to it: no room shows as an error of its own.
_FULL_EXTENDED = {sqlite3.SQLITE_IOERR_SHMSIZE}


def translated(error: sqlite3.Error, path: str) -> IntermodalError:
    """The error by meaning for what sqlite3 raised at the database `path`."""
    extended = getattr(error, "sqlite_errorcode", None)
    if extended is None:
        # Raised by the module itself: a value it cannot bind is the caller's, the rest is ours.
        if isinstance(error, sqlite3.InterfaceError) or "binding" in str(error):
            return InvalidArgument(f"metadata {path}: a key or index field is no str, int or bytes ({error})")
        return Internal(f"metadata {path}: {error}")
    code = sqlite3.SQLITE_FULL if extended in _FULL_EXTENDED else extended & 0xFF
    kind, advice = _BY_CODE.get(code, (Internal, "unexpected"))
    return kind(f"metadata {path}: {advice} ({error})")
