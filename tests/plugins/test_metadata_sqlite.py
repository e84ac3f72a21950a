"""The metadata store `sqlite`: the kit, and what its file must survive."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Coroutine
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from intermodal_core.contracts.metadata import Table, Transaction
from intermodal_core.errors import DataLoss, FailedPrecondition, ResourceExhausted, Unavailable
from intermodal_core.plugin import Context, Plugin
from intermodal_core.testing.metadata import Factory, MetadataStoreKit
from intermodal_sqlite.store import Store

from tests.harness.crash import ROOT, command
from tests.harness.disk import fill, small_disk
from tests.plugins.metadata_child import PAIRS, Pair, put_pair

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    async def limited() -> T:
        async with asyncio.timeout(30):
            return await work

    return asyncio.run(limited())


def names(store: Store, side: str) -> list[str]:
    return run(store.read(lambda tx: [pair.name for pair in tx.scan(PAIRS, side, index="side")]))


def declared(path: Path) -> Store:
    store = Store(path)
    store.declare(PAIRS)
    return store


class TestSqlite(MetadataStoreKit):
    @pytest.fixture
    def factory(self) -> Factory:
        return lambda directory: Store(directory / "metadata.db")


@pytest.mark.parametrize("after", [1, 40, 400])
def test_m6_killed_while_writing(tmp_path: Path, after: int) -> None:
    """[M6] All that was promised is there, whole; of the rest, each pair is there or not."""
    with subprocess.Popen(
        command(0, "tests.plugins.metadata_child:write_until_killed", str(tmp_path / "m.db")),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        promised = [next(child.stdout).strip() for _ in range(after)]
        child.kill()
        promised += [line.strip() for line in child.stdout if line.endswith("\n")]
        assert child.wait(20) == -signal.SIGKILL
    store = declared(tmp_path / "m.db")
    left, right = names(store, "left"), names(store, "right")
    assert left == right
    assert set(promised) <= set(left)
    store.close()


def test_m6_killed_inside_a_transaction(tmp_path: Path) -> None:
    """[M6] Nothing of it is there."""
    child = subprocess.run(
        command(0, "tests.plugins.metadata_child:die_inside", str(tmp_path / "m.db")), cwd=ROOT, timeout=30, check=False
    )
    assert child.returncode == -signal.SIGKILL
    store = declared(tmp_path / "m.db")
    assert names(store, "left") == names(store, "right") == ["first"]
    store.close()


def test_m6_the_durable_pragmas(tmp_path: Path) -> None:
    """[M6] The log is synced at each commit."""
    store = declared(tmp_path / "m.db")
    with sqlite3.connect(tmp_path / "m.db") as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    other.close()
    assert store._writer.execute("PRAGMA synchronous").fetchone() == (2,)
    store.close()


def test_m11_full_disk(tmp_path: Path) -> None:
    """[M11] Told as such; reads go on, and writes once there is room."""
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        store = declared(disk / "m.db")

        def much(tx: Transaction) -> None:
            for n in range(400):
                tx.put(PAIRS, Pair(str(n), "left", os.urandom(3000)))

        run(store.write(lambda tx: put_pair(tx, "first")))
        filler = fill(disk)
        with pytest.raises(ResourceExhausted):
            run(store.write(much))

        async def crowd() -> list[object]:
            return await asyncio.gather(
                *(
                    store.write(lambda tx, n=n: tx.put(PAIRS, Pair(f"c{n}", "left", os.urandom(30_000))))  # type: ignore[misc]
                    for n in range(40)
                ),
                return_exceptions=True,
            )

        outcomes = run(crowd())
        assert all(outcome is None or isinstance(outcome, ResourceExhausted) for outcome in outcomes)
        assert any(isinstance(outcome, ResourceExhausted) for outcome in outcomes)
        promised = [f"c{n}" for n, outcome in enumerate(outcomes) if outcome is None]
        assert names(store, "left") == sorted([*promised, "first"])
        filler.unlink()
        run(store.write(lambda tx: put_pair(tx, "second")))
        assert names(store, "right") == ["first", "second"]
        store.close()


def test_m11_writers_share_commits(tmp_path: Path) -> None:
    """Fifty writers at once take a few commits, not fifty."""
    store = declared(tmp_path / "m.db")
    commits = 0

    def count(statement: str) -> None:
        nonlocal commits
        commits += statement == "COMMIT"

    store._writer.set_trace_callback(count)

    async def crowd() -> None:
        await asyncio.gather(*(store.write(lambda tx, n=n: put_pair(tx, str(n))) for n in range(50)))  # type: ignore[misc]

    run(crowd())
    assert 1 <= commits <= 10
    store.close()


@pytest.mark.parametrize("read", ["get", "scan", "long scan", "write"])
def test_m13_an_unreadable_record_is_quarantined(tmp_path: Path, caplog: pytest.LogCaptureFixture, read: str) -> None:
    """[M13] It is moved away and logged; the others stay readable, and its key can be used again."""
    store = declared(tmp_path / "m.db")
    for name in ("good", "bad"):
        run(store.write(lambda tx, name=name: put_pair(tx, name)))  # type: ignore[misc]
    store.close()
    with sqlite3.connect(tmp_path / "m.db") as connection:
        connection.execute("UPDATE pairs SET record=x'c1' WHERE name='bad' AND side='left'")
    connection.close()
    store = declared(tmp_path / "m.db")
    with caplog.at_level(logging.ERROR):
        if read == "get":
            assert run(store.read(lambda tx: tx.get(PAIRS, "bad", "left"))) is None
        elif read == "write":
            assert run(store.write(lambda tx: tx.get(PAIRS, "bad", "left"))) is None
        else:
            found = run(store.read(lambda tx: [pair.name for pair in tx.scan(PAIRS)], long=read == "long scan"))
            assert found == ["bad", "good", "good"]
        # Behind the move in the queue.
        run(store.write(lambda tx: put_pair(tx, "more")))
    assert run(store.read(lambda tx: tx.count(PAIRS, "bad"))) == 1
    assert "table pairs could not be read" in caplog.text
    run(store.write(lambda tx: put_pair(tx, "bad")))
    assert names(store, "left") == ["bad", "good", "more"]
    store.close()
    with sqlite3.connect(tmp_path / "m.db") as connection:
        assert connection.execute("SELECT table_name, record FROM _quarantine").fetchall() == [("pairs", b"\xc1")]
    connection.close()


def test_m9_a_copy_is_kept(tmp_path: Path) -> None:
    """[M9] Before records are migrated the whole database is copied, for the program of before."""

    def upper(plain: dict[str, object]) -> dict[str, object]:
        return {**plain, "name": str(plain["name"]).upper()}

    newer: Table[Pair] = Table("pairs", Pair, PAIRS.key, PAIRS.indexes, (upper,))
    store = declared(tmp_path / "m.db")
    run(store.write(lambda tx: put_pair(tx, "a")))
    store.close()
    store = Store(tmp_path / "m.db")
    store.declare(newer)
    assert run(store.read(lambda tx: [pair.name for pair in tx.scan(newer)])) == ["A", "A"]
    store.close()
    copy = tmp_path / "m.db.before-pairs-v2"
    assert copy.stat().st_mode & 0o777 == 0o600
    old = declared(copy)
    assert names(old, "left") == ["a"]
    old.close()


def test_m9_a_newer_store_is_refused(tmp_path: Path) -> None:
    """[M9] Both versions are named; so is a database of somebody else."""
    declared(tmp_path / "m.db").close()
    with sqlite3.connect(tmp_path / "m.db") as connection:
        connection.execute("PRAGMA user_version=7")
    connection.close()
    with pytest.raises(FailedPrecondition, match=r"version 7.*version 1"):
        Store(tmp_path / "m.db")
    with sqlite3.connect(tmp_path / "theirs.db") as connection:
        connection.execute("PRAGMA application_id=99")
        connection.execute("CREATE TABLE t (a)")
    connection.close()
    with pytest.raises(FailedPrecondition, match="another program"):
        Store(tmp_path / "theirs.db")


def test_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "m.db").write_bytes(b"no database " * 1000)
    with pytest.raises(DataLoss):
        Store(tmp_path / "m.db")


def test_another_process_holds_it(tmp_path: Path) -> None:
    """A transaction of somebody else is waited for, not for ever, and the store goes on."""
    store = Store(tmp_path / "m.db", busy_timeout=0.05)
    store.declare(PAIRS)
    holder = sqlite3.connect(tmp_path / "m.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable):
        run(store.write(lambda tx: put_pair(tx, "a")))
    holder.execute("ROLLBACK")
    holder.close()
    run(store.write(lambda tx: put_pair(tx, "b")))
    assert names(store, "left") == ["b"]
    store.close()


def test_only_root_reads_it(tmp_path: Path) -> None:
    store = declared(tmp_path / "m.db")
    run(store.write(lambda tx: put_pair(tx, "a")))
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    store.close()


def test_close_leaves_one_file_and_no_descriptor(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    store = declared(tmp_path / "m.db")
    run(store.write(lambda tx: put_pair(tx, "a")))
    run(store.read(lambda tx: tx.count(PAIRS), long=True))
    store.close()
    assert [path.name for path in tmp_path.iterdir()] == ["m.db"]
    assert len(os.listdir("/proc/self/fd")) == before


def test_exit_without_close_does_not_hang(tmp_path: Path) -> None:
    """Its threads are daemon threads."""
    code = f"from intermodal_sqlite.store import Store; Store({str(tmp_path / 'm.db')!r})"
    assert subprocess.run([sys.executable, "-c", code], timeout=20, check=False).returncode == 0


def test_results_for_a_loop_that_is_gone(tmp_path: Path) -> None:
    """Nobody to tell: the write is done all the same, and the thread lives on."""
    store = declared(tmp_path / "m.db")
    loop = asyncio.new_event_loop()

    async def begin(fn: Callable[[Transaction], None]) -> None:
        task = asyncio.ensure_future(store.write(fn))
        await asyncio.sleep(0)
        task.cancel()

    loop.run_until_complete(begin(lambda tx: put_pair(tx, "a")))
    loop.close()
    run(store.write(lambda tx: put_pair(tx, "b")))
    assert names(store, "left") == ["a", "b"]
    store.close()


def test_msgpack_is_what_is_stored(tmp_path: Path) -> None:
    """Others may read the file."""
    store = declared(tmp_path / "m.db")
    run(store.write(lambda tx: put_pair(tx, "a")))
    with sqlite3.connect(tmp_path / "m.db") as connection:
        name, side, record = connection.execute("SELECT name, side, record FROM pairs").fetchone()
    connection.close()
    assert (name, side) == ("a", "left")
    assert msgspec.msgpack.decode(record)["name"] == "a"
    store.close()


@pytest.mark.parametrize("where", ["root/metadata.db", "elsewhere.db"])
def test_the_plugin(tmp_path: Path, where: str) -> None:
    """Found by its entry point, made by its factory: in the instance's directory, or where the config says."""
    (point,) = entry_points(group="intermodal.metadata", name="sqlite")
    plugin: Plugin[Any] = point.load()
    config = plugin.config() if where == "root/metadata.db" else plugin.config(path=str(tmp_path / where))
    nothing: Any = None
    context = Context(
        kind="metadata",
        name="sqlite",
        config=config,
        root=tmp_path / "root",
        state=tmp_path / "state",
        address="",
        log=logging.getLogger("sqlite"),
        events=nothing,
        spawner=nothing,
        registry=nothing,
    )
    store = plugin.factory(context)
    store.declare(PAIRS)
    run(store.write(lambda tx: put_pair(tx, "a")))
    store.close()
    again = declared(tmp_path / where)
    assert names(again, "left") == ["a"]
    again.close()
