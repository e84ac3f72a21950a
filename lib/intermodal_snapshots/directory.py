"""The whole snapshotter contract for backends that keep each snapshot in a directory; an author writes the hooks.

    ROOT/records.db            `Records`
    ROOT/snapshots/ID/         one snapshot's files, laid out as the backend likes; mode 0700

A backend is a subclass that says what goes into such a directory and what its mounts are:

    class Plain(DirectorySnapshotter):
        def make(self, directory, kind, parents):                # fill the new, empty directory
            copy_tree(parents[0], directory / "fs") if parents else (directory / "fs").mkdir()
        def mounts_of(self, directory, kind, parents):           # what a caller mounts
            return [Mount("bind", str(directory / "fs"), ("ro" if kind == "view" else "rw", "rbind"))]

`parents` are the directories of the ancestors, the nearest first. Optional hooks: `seal` (before a commit), `usage_of`,
`delete`. Hooks may run at once in several threads, never twice at once for the same directory, and hold no lock.
"""

from __future__ import annotations

import fcntl
import logging
import os
import queue
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from intermodal_core.contracts.common import Mount, Usage
from intermodal_core.contracts.snapshotters import Kind, SnapshotInfo
from intermodal_core.errors import (
    Cancelled,
    DataLoss,
    FailedPrecondition,
    IntermodalError,
    Unimplemented,
    from_os_error,
)
from intermodal_core.syscalls import syncfs

from intermodal_snapshots.records import Record, Records
from intermodal_snapshots.trees import disk_usage, remove_tree

__all__ = ["DirectorySnapshotter"]

_log = logging.getLogger(__name__)


class DirectorySnapshotter(ABC):
    """A snapshotter below `root`, which it makes and locks: one process at a time.

    `sync`: a commit waits until the snapshot's files are on disk (syncfs), so that a committed snapshot survives a
    power cut too. `sync_remove`: `remove` deletes files before it returns, and not in a thread of its own.

    Raises FailedPrecondition where another process has `root`, DataLoss where snapshots are there but not their
    records, and what `Records` raises.
    """

    #: Whether `commit` may name another parent than `prepare` did (the capability `rebase`).
    rebase = False

    def __init__(self, root: Path, *, sync: bool = True, sync_remove: bool = False) -> None:
        self.root = root
        self.sync = sync
        self.sync_remove = sync_remove
        self._snapshots = root / "snapshots"
        self._making: set[int] = set()
        self._deleter = _Deleter(self._delete)
        self._snapshots.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = _lock(root)
        try:
            if not (root / "records.db").exists() and os.listdir(self._snapshots):
                raise DataLoss(
                    f"{root / 'records.db'} is gone but {self._snapshots} is not empty: restore the one or empty the other"
                )
            self._records = Records(root / "records.db")
        except BaseException:
            os.close(self._lock)
            raise

    # -- hooks --------------------------------------------------------------------------------------------------------

    @abstractmethod
    def make(self, directory: Path, kind: Kind, parents: list[Path]) -> None:
        """Fill the new `directory`, which no one else knows yet. On an error it is deleted."""

    @abstractmethod
    def mounts_of(self, directory: Path, kind: Kind, parents: list[Path]) -> list[Mount]:
        """The mounts of an active snapshot or a view; must not depend on anything but its arguments."""

    def seal(self, directory: Path) -> None:
        """Before the commit of an active snapshot: make its files durable, and ready to be a parent's."""
        if self.sync:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                syncfs(fd)
            finally:
                os.close(fd)

    def usage_of(self, directory: Path) -> Usage:
        """Disk use of the files of one snapshot, which may be in use."""
        return disk_usage(directory)

    def delete(self, directory: Path) -> None:
        """Delete a snapshot's directory. May find it half deleted, or gone. Cancelled: goes on another time."""
        remove_tree(directory, self._deleter.stopped)

    # -- the contract -------------------------------------------------------------------------------------------------

    def prepare(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> list[Mount]:
        """[S5]."""
        return self._create(key, parent, "active", labels)

    def view(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> list[Mount]:
        """[S6]."""
        return self._create(key, parent, "view", labels)

    def mounts(self, key: str) -> list[Mount]:
        """[S7]."""
        record = self._records.get(key)
        if record.info.kind == "committed":
            raise FailedPrecondition(f"Snapshot {key!r} is committed: prepare or view it to mount it")
        return self._mounts(record)

    def commit(self, name: str, key: str, labels: Mapping[str, str] | None = None, parent: str | None = None) -> None:
        """[S8]."""
        record = self._records.get(key)
        below = None
        if parent and parent != record.info.parent:
            if not self.rebase:
                raise Unimplemented(f"This snapshotter cannot rebase: prepare {key!r} on top of {parent!r} instead")
            below = self._records.parent_of(parent)
        if record.info.kind == "active":
            self._records.check_free(name)  # before the costly part; `Records.commit` decides
            with self._by_meaning(f"commit snapshot {key!r}"):
                self.seal(self._directory(record.id))
            sys.audit("intermodal.step", "snapshots.sealed")
        self._records.commit(name, key, labels, below)

    def remove(self, key: str) -> None:
        """[S9]."""
        number = self._records.remove(key)
        if self.sync_remove:
            self._delete(number)
        else:
            self._deleter.put(number)

    def stat(self, key: str) -> SnapshotInfo:
        """[S10]."""
        return self._records.get(key).info

    def update(self, key: str, labels: Mapping[str, str]) -> SnapshotInfo:
        """[S11]."""
        return self._records.update(key, labels)

    def walk(self, filters: tuple[str, ...] = ()) -> Iterator[SnapshotInfo]:
        """[S12]."""
        return self._records.walk(filters)

    def usage(self, key: str) -> Usage:
        """[S13] A committed snapshot is measured when first asked for, then the answer is kept."""
        record = self._records.get(key)
        if usage := self._records.kept_usage(record.id):
            return usage
        with self._by_meaning(f"measure snapshot {key!r}"):
            usage = self.usage_of(self._directory(record.id))
        if record.info.kind == "committed":
            self._records.keep_usage(record.id, usage)
        return usage

    def cleanup(self) -> None:
        """[S14] One that cannot be deleted does not keep the others; the first error is raised in the end."""
        failed: Exception | None = None
        for number in self._orphans():
            try:
                self._delete(number)
            except (OSError, IntermodalError) as error:
                failed = failed or error
        if isinstance(failed, OSError):
            raise from_os_error(failed, "clean up removed snapshots") from failed
        if failed:
            raise failed

    def close(self) -> None:
        """[S15]."""
        if self._lock >= 0:
            self._deleter.close()
            self._records.close()
            os.close(self._lock)
            self._lock = -1

    # -- inside -------------------------------------------------------------------------------------------------------

    def _directory(self, number: int) -> Path:
        return self._snapshots / str(number)

    def _mounts(self, record: Record) -> list[Mount]:
        parents = [self._directory(number) for number in record.parents]
        return self.mounts_of(self._directory(record.id), record.info.kind, parents)

    def _create(self, key: str, parent: str, kind: Kind, labels: Mapping[str, str] | None) -> list[Mount]:
        self._records.check_free(key)
        below = self._records.parent_of(parent) if parent else None
        parents = [self._directory(number) for number in (below.id, *below.parents)] if below else []
        number = self._records.reserve()
        directory = self._directory(number)
        # Before the directory is there: `_orphans` lists directories first.
        self._making.add(number)
        try:
            with self._by_meaning(f"make snapshot {key!r}"):
                directory.mkdir(mode=0o700)
                sys.audit("intermodal.step", "snapshots.begun")
                self.make(directory, kind, parents)
            sys.audit("intermodal.step", "snapshots.made")
            record = self._records.create(number, key, kind, below, labels)
        except BaseException as error:
            self._discard(number)
            if parent and isinstance(error, Exception):
                # Where the parent was removed meanwhile, that is what to tell, whatever it broke.
                self._records.parent_of(parent)
            raise
        finally:
            self._making.discard(number)
        return self._mounts(record)

    def _orphans(self) -> list[int]:
        """Ids of directories that belong to no snapshot. The order of the three looks matters."""
        there = {int(name) for name in os.listdir(self._snapshots) if name.isdecimal()}
        making = set(self._making)
        return sorted(there - making - self._records.ids())

    def _delete(self, number: int) -> None:
        self.delete(self._directory(number))
        sys.audit("intermodal.step", "snapshots.deleted")

    def _discard(self, number: int) -> None:
        try:
            self._delete(number)
        except (OSError, IntermodalError) as error:
            _log.warning("%s is left for the next cleanup: %s", self._directory(number), error)

    @contextmanager
    def _by_meaning(self, doing: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise DataLoss(f"{doing}: files of a snapshot are missing ({error.filename})") from error
        except OSError as error:
            raise from_os_error(error, doing) from error


class _Deleter:
    """A thread that deletes, made when there is something to delete, and gone when it has had nothing to do."""

    def __init__(self, delete: Callable[[int], None]) -> None:
        self._delete = delete
        self._queue: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def stopped(self) -> bool:
        return self._closed

    def put(self, number: int) -> None:
        self._queue.put(number)
        with self._lock:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="snapshots-deleter", daemon=True)
                self._thread.start()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while not self._closed:
            with self._lock:
                try:
                    number = self._queue.get_nowait()
                except queue.Empty:
                    self._thread = None
                    return
            try:
                self._delete(number)
            except Cancelled:
                return
            except Exception as error:
                _log.warning("A removed snapshot is left for the next cleanup: %s", error)


def _lock(root: Path) -> int:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise FailedPrecondition(
            f"Another process uses the snapshots in {root}: stop it, or choose another root"
        ) from error
    return fd
