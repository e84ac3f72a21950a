"""A metadata store in one SQLite file.

Writes run one after the other on one thread. All that are queued while a commit is under way share the next one, so that
fifty writers wait for two syncs and not for fifty. Each has a savepoint, so that one that raises undoes itself alone.

A short read runs at once on the calling thread (15 us; handing it to a thread and back costs 100), a long one on a
reader thread. In WAL mode (https://www.sqlite.org/wal.html) a reader sees the last commit and nobody waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import sqlite3
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from intermodal_core.contracts.metadata import Table, Transaction
from intermodal_core.errors import Aborted, DataLoss, Internal, InvalidArgument, Unavailable, from_os_error

from intermodal_sqlite.copies import Copies
from intermodal_sqlite.failures import translated
from intermodal_sqlite.migrate import ensure_store, ensure_table, quarantine
from intermodal_sqlite.schema import Layout, same_declaration
from intermodal_sqlite.transaction import Reading, Unreadable, Writing

__all__ = ["Store"]

T = TypeVar("T")

#: Most writes that share a commit: what the first of them waits for the last.
_BATCH = 512

#: Long reads that run at once.
_READERS = 2
#: Seconds between looks at whether a copy is due.
_LOOK = 3600.0


class _Job:
    """A function on its way to a thread and back."""

    __slots__ = ("error", "fn", "future", "result")

    def __init__(self, fn: Callable[[Any], Any], future: asyncio.Future[Any] | None) -> None:
        self.fn = fn
        self.future = future
        self.result: Any = None
        self.error: BaseException | None = None


_Jobs = queue.SimpleQueue[_Job | None]


class Store:
    """The database at `path`, made where there is none. Implements `intermodal_core.contracts.metadata`.

    `busy_timeout` is in seconds: how long to wait for another process's transaction. Raises FailedPrecondition for a
    database of a newer version, DataLoss for a damaged one, Unavailable when it cannot be opened.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        busy_timeout: float = 5.0,
        log: logging.Logger | None = None,
        copies: Copies | None = None,
    ) -> None:
        self._path = str(path)
        self._busy_timeout = busy_timeout
        self._log = log or logging.getLogger(__name__)
        self._layouts: dict[str, Layout] = {}
        self._idle: deque[sqlite3.Connection] = deque()
        self._writes: _Jobs = queue.SimpleQueue()
        self._long_reads: _Jobs = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._closed = False
        #: Orders `_submit` against `close`, so that nothing is queued behind the end.
        self._gate = threading.Lock()
        #: Held by whoever uses the write connection.
        self._writing = threading.Lock()
        self._copies = copies
        self._changed = False
        self._look_at = time.monotonic() + _LOOK
        self.rebuilt_from = copies.restore() if copies is not None else ""
        _make_file(self._path)
        try:
            self._writer = self._connect()
            try:
                ensure_store(self._writer, self._path)
            except BaseException:
                self._writer.close()
                raise
        except sqlite3.Error as error:
            raise translated(error, self._path) from error
        self._start("metadata-writer", self._write_loop)

    def declare(self, *tables: Table[Any]) -> None:
        """[M9]."""
        for table in tables:
            known = self._layouts.get(table.name)
            if known is not None:
                if not same_declaration(known.table, table):
                    raise InvalidArgument(f"table {table.name} is declared already, and otherwise; use another name")
                continue
            layout = Layout(table)
            with self._writing:
                self._check_open()
                try:
                    ensure_table(self._writer, layout, self._path, self._log)
                except sqlite3.Error as error:
                    raise translated(error, self._path) from error
                self._layouts[table.name] = layout

    async def read(self, fn: Callable[[Transaction], T], *, long: bool = False) -> T:
        """[M10]."""
        if not long:
            return self._read(fn)
        with self._gate:
            if len(self._threads) <= _READERS and not self._closed:
                self._start("metadata-reader", self._read_loop)
        return await self._submit(self._long_reads, fn)

    async def write(self, fn: Callable[[Transaction], T]) -> T:
        """[M11]. A caller that is cancelled meanwhile does not know the outcome."""
        return await self._submit(self._writes, fn)

    def close(self) -> None:
        """[M12]."""
        with self._gate:
            if self._closed:
                return
            self._closed = True
            self._writes.put(None)
            for _ in self._threads[1:]:
                self._long_reads.put(None)
        for thread in self._threads:
            thread.join()
        self._drop_idle()
        if self._changed:
            self._copy()
        # The last connection to go folds the log into the database.
        self._writer.close()

    async def check(self) -> list[str]:
        """[M14]."""

        def check(tx: Transaction) -> list[str]:
            with closing(self._connect(reader=True)) as connection:
                return [row[0] for row in connection.execute("PRAGMA integrity_check(20)") if row[0] != "ok"]

        try:
            return await self.read(check, long=True)
        except DataLoss as error:
            return [str(error)]

    def rebuilt(self) -> None:
        """[M15]."""
        self.rebuilt_from = ""
        if self._copies is not None:
            self._copies.rebuilt()

    def _copy(self) -> None:
        if self._copies is None:
            return
        try:
            self._copies.make()
        except (sqlite3.Error, OSError) as error:
            self._log.warning("no copy of %s could be made: %s", self._path, error)

    # -- reads

    def _read(self, fn: Callable[[Transaction], T]) -> T:
        self._check_open()
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connect(reader=True)
        transaction = Reading(connection, self._layouts)
        try:
            connection.execute("BEGIN")
            return fn(transaction)
        except sqlite3.Error as error:
            raise translated(error, self._path) from error
        finally:
            transaction.end()
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self._idle.append(connection)
            if self._closed:
                self._drop_idle()
            if transaction.unreadable:
                self._set_aside(transaction.unreadable)

    def _set_aside(self, bad: list[Unreadable]) -> None:
        with self._gate:
            if not self._closed:
                self._writes.put(_Job(lambda _: quarantine(self._writer, bad, self._log), None))

    def _read_loop(self) -> None:
        while (job := self._long_reads.get()) is not None:
            try:
                job.result = self._read(job.fn)
            except BaseException as error:
                job.error = error
            _deliver([job])
            del job

    # -- writes

    async def _submit(self, jobs: _Jobs, fn: Callable[[Transaction], T]) -> T:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        with self._gate:
            self._check_open()
            jobs.put(_Job(fn, future))
        return await future

    def _write_loop(self) -> None:
        last = False
        while not last:
            job = self._writes.get()
            batch: list[_Job] = []
            while True:
                if job is None:
                    last = True
                    break
                batch.append(job)
                if len(batch) == _BATCH:
                    break
                try:
                    job = self._writes.get_nowait()
                except queue.Empty:
                    break
            if batch:
                with self._writing:
                    self._commit(batch)
                _deliver(batch)
            del job, batch

    def _commit(self, batch: list[_Job]) -> None:
        execute = self._writer.execute
        try:
            execute("BEGIN IMMEDIATE")
            for job in batch:
                self._run(job)
            sys.audit("intermodal.step", "metadata.commit")
            execute("COMMIT")
            self._note_change()
        except (sqlite3.Error, Aborted) as error:
            if self._writer.in_transaction:
                execute("ROLLBACK")
            why = translated(error, self._path) if isinstance(error, sqlite3.Error) else error
            for job in batch:
                job.error = job.error or why

    def _note_change(self) -> None:
        """The first change of a day, or of this process, may be due a copy: on a reader's thread, beside what goes on."""
        now = time.monotonic()
        self._changed = True
        if self._copies is None or now < self._look_at:
            return
        self._look_at = now + _LOOK
        if self._copies.due:
            threading.Thread(target=self._copy, name="metadata-copy", daemon=True).start()

    def _run(self, job: _Job) -> None:
        """Run one function in its savepoint. What it raises is kept in the job; what is raised ends the whole batch."""
        execute = self._writer.execute
        execute("SAVEPOINT one")
        transaction = Writing(self._writer, self._layouts)
        try:
            job.result = job.fn(transaction)
            transaction.end()
            if transaction.unreadable:
                quarantine(self._writer, transaction.unreadable, self._log)
        except BaseException as error:
            transaction.end()
            if not self._writer.in_transaction:
                # SQLite itself rolls all back when the disk is full or fails.
                raise (error if isinstance(error, sqlite3.Error) else self._lost()) from error
            execute("ROLLBACK TO one")
            job.error = translated(error, self._path) if isinstance(error, sqlite3.Error) else error
        if not self._writer.in_transaction:
            raise self._lost()
        execute("RELEASE one")

    def _lost(self) -> Aborted:
        return Aborted(f"metadata {self._path}: the transaction was rolled back by SQLite; try again")

    # -- connections and threads

    def _connect(self, *, reader: bool = False) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path,
            timeout=self._busy_timeout,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        try:
            connection.execute("PRAGMA cache_size=-1024")
            if reader:
                connection.execute("PRAGMA query_only=1")
            else:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=FULL")
        except BaseException:
            connection.close()
            raise
        return connection

    def _drop_idle(self) -> None:
        while True:
            try:
                self._idle.pop().close()
            except IndexError:
                return

    def _start(self, name: str, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable(f"metadata {self._path} is closed")


def _make_file(path: str) -> None:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise from_os_error(error, f"open the metadata database {path}") from error


def _deliver(batch: list[_Job]) -> None:
    """Hand results to their loops: one wake-up a loop, however many."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
    for job in batch:
        if job.future is not None:
            by_loop.setdefault(job.future.get_loop(), []).append(job)
    for loop, jobs in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, jobs)
        except RuntimeError:
            pass  # The loop was closed: nobody waits any more.


def _settle(jobs: list[_Job]) -> None:
    for job in jobs:
        future = job.future
        if future is None or future.done():
            continue
        if job.error is None:
            future.set_result(job.result)
        elif isinstance(job.error, Exception) and not isinstance(job.error, StopIteration):
            future.set_exception(job.error)
        else:
            # What would end the caller's task, or the loop, is not for a function of a transaction to raise.
            wrapped = Internal(f"the function of a metadata transaction raised {type(job.error).__name__}")
            wrapped.__cause__ = job.error
            future.set_exception(wrapped)
