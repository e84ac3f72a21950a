"""Whole copies of the database, kept beside it, and the way back to the newest good one.

A copy is made when the store is closed after a change, and once a day while there are changes. `rebuild` in the instance's
directory asks for the way back: the next load sets the database aside and goes on with the newest copy that is whole. The file
then says which one, until the managers have brought it up to what they find on disk, and `rebuilt` is called.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from intermodal_core.errors import DataLoss

from intermodal_sqlite.migrate import put_in_place

__all__ = ["Copies"]

_EMPTY = "an empty database"
_DAY = 86400.0


class Copies:
    """Those of the database at `path`, below `directory`; at most `keep` of them stay, none where it is 0."""

    def __init__(self, path: Path, directory: Path, keep: int, log: logging.Logger) -> None:
        self._path = path
        self._keep = keep
        self._log = log
        self._directory = directory / "copies"
        self._marker = directory / "rebuild"

    def all(self) -> list[Path]:
        """The newest first."""
        return sorted(self._directory.glob("metadata-*.db"), reverse=True)

    @property
    def due(self) -> bool:
        """Whether the newest one is a day old, or there is none."""
        newest = self.all()[:1]
        return self._keep > 0 and not (newest and time.time() - newest[0].stat().st_mtime < _DAY)

    def make(self) -> None:
        """Write one, synced, and remove the oldest beyond `keep`. Raises sqlite3.Error, OSError."""
        if not self._keep:
            return
        self._directory.mkdir(mode=0o700, exist_ok=True)
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime()) + f".{time.time_ns() % 1_000_000_000:09}"
        copy, partial = self._directory / f"metadata-{stamp}.db", self._directory / "partial"
        partial.unlink(missing_ok=True)
        with closing(sqlite3.connect(self._path)) as connection:
            connection.execute("VACUUM INTO ?", (str(partial),))
        put_in_place(partial, copy)
        for old in self.all()[self._keep :]:
            old.unlink()

    # The way back.

    def restore(self) -> str:
        """At load: do what `rebuild` asks for; returns which copy the database is, "" for none.

        Raises DataLoss when the database is gone and nobody has asked: an empty one would take everything for left-overs.
        """
        if not self._marker.exists():
            if not self._path.exists() and self.all():
                raise DataLoss(
                    f"metadata {self._path} is gone, and there are copies of it: imod fsck --rebuild and a restart bring it back"
                )
            return ""
        done = self._marker.read_text().strip()
        if done:
            return done
        aside = f"{self._path}.aside-{time.time_ns()}"
        for suffix in ("", "-wal", "-shm"):
            file = Path(f"{self._path}{suffix}")
            if file.exists():
                file.rename(f"{aside}{suffix}")
        name = _EMPTY
        for copy in self.all():
            if why := _damage(copy):
                self._log.warning("the copy %s cannot be used: %s", copy, why)
                continue
            partial = Path(f"{self._path}.partial")
            partial.write_bytes(copy.read_bytes())
            partial.chmod(0o600)
            partial.rename(self._path)
            name = copy.name
            break
        self._log.warning("metadata %s begins again with %s; the old one is %s", self._path, name, aside)
        self._write(name)
        return name

    def rebuilt(self) -> None:
        """What the way back began is done."""
        self._marker.unlink(missing_ok=True)

    def _write(self, text: str) -> None:
        partial = self._marker.with_suffix(".partial")
        partial.write_text(text)
        partial.rename(self._marker)


def _damage(path: Path) -> str:
    """What is wrong with a database; "" where nothing is."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            (answer,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            connection.execute('SELECT count(*) FROM "_tables"').fetchone()
    except sqlite3.Error as error:
        return str(error)
    return "" if answer == "ok" else str(answer)
