"""Records: ids, chains, a file that is damaged or from the future, and a disk that is full."""

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from intermodal_core.contracts.common import Mount, Usage
from intermodal_core.errors import DataLoss, FailedPrecondition, NotFound, ResourceExhausted
from intermodal_native.snapshotter import NativeSnapshotter
from intermodal_snapshots.mounts import mount_all, unmount_all
from intermodal_snapshots.records import Record, Records


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    records = Records(tmp_path / "records.db")
    yield records
    records.close()


def test_ids_are_never_used_twice(tmp_path: Path) -> None:
    seen: list[int] = []
    for _ in range(3):
        records = Records(tmp_path / "records.db")
        numbers = [records.reserve() for _ in range(100)]
        records.create(numbers[-1], "key", "active")
        records.remove("key")
        seen += numbers
        records.close()
    assert len(set(seen)) == len(seen) == 300
    assert seen == sorted(seen)


def test_ids_are_unique_among_threads(records: Records) -> None:
    numbers: list[int] = []
    threads = [
        threading.Thread(target=lambda: numbers.extend(records.reserve() for _ in range(200))) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(set(numbers)) == 3200


def test_chain_is_told_nearest_first(records: Records) -> None:
    below: Record | None = None
    ids: list[int] = []
    for layer in range(5):
        number = records.reserve()
        records.create(number, "work", "active", below)
        records.commit(f"layer {layer}", "work")
        below = records.parent_of(f"layer {layer}")
        assert below.parents == tuple(reversed(ids))
        ids.append(number)
    assert records.ids() == set(ids)


def test_a_parent_of_the_same_name_is_not_the_same_parent(records: Records) -> None:
    records.create(records.reserve(), "work", "active")
    records.commit("base", "work")
    old = records.parent_of("base")
    records.remove("base")
    records.create(records.reserve(), "work", "active")
    records.commit("base", "work")
    with pytest.raises(NotFound, match="removed meanwhile"):
        records.create(records.reserve(), "run", "active", old)


def test_usage_is_kept_for_committed_ones_only(records: Records) -> None:
    number = records.reserve()
    records.create(number, "work", "active")
    records.keep_usage(number, Usage(1, 2))
    assert records.kept_usage(number) is None
    records.commit("base", "work")
    records.keep_usage(number, Usage(1, 2))
    assert records.kept_usage(number) == Usage(1, 2)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    Records(tmp_path / "records.db").close()
    db = sqlite3.connect(tmp_path / "records.db")
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(FailedPrecondition, match="newer version"):
        Records(tmp_path / "records.db")


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "records.db").write_bytes(b"this is no database" * 1000)
    with pytest.raises(DataLoss, match=r"records\.db is damaged"):
        Records(tmp_path / "records.db")


def test_a_closed_one_says_so(tmp_path: Path) -> None:
    records = Records(tmp_path / "records.db")
    records.close()
    records.close()
    with pytest.raises(FailedPrecondition, match="closed"):
        records.get("key")


def test_lost_records_do_not_take_the_snapshots_along(tmp_path: Path) -> None:
    snapshotter = NativeSnapshotter(tmp_path)
    snapshotter.prepare("run")
    snapshotter.close()
    (tmp_path / "records.db").unlink()
    with pytest.raises(DataLoss, match="restore"):
        NativeSnapshotter(tmp_path)
    assert (tmp_path / "snapshots/1/fs").is_dir()


def _fill_up(snapshotter: NativeSnapshotter) -> None:
    for number in range(10):
        snapshotter.prepare(f"run-{number}", "base")


def test_a_full_disk(tmp_path: Path) -> None:
    mount_all([Mount("tmpfs", "tmpfs", ("size=2m",))], tmp_path)
    try:
        snapshotter = NativeSnapshotter(tmp_path / "root")
        snapshotter.prepare("work")
        (tmp_path / "root/snapshots/1/fs/file").write_bytes(b"x" * 1_000_000)
        snapshotter.commit("base", "work")
        with pytest.raises(ResourceExhausted):
            _fill_up(snapshotter)
        keys = [info.key for info in snapshotter.walk()]
        for key in reversed(keys):
            snapshotter.remove(key)
        snapshotter.cleanup()
        assert not list((tmp_path / "root/snapshots").iterdir())
        snapshotter.prepare("again")
        snapshotter.close()
    finally:
        unmount_all(tmp_path)
