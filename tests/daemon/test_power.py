"""Power fails: what was recorded has its data.

The daemon's root is an ext4 in a file that lies on a btrfs. While clients work the file is cloned (FICLONE), which is what a disk
holds at that instant: whatever was not synced is missing. Each clone is mounted, and every row's data looked for.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.harness.btrfs import btrfs
from tests.harness.daemon import PrivateDaemon
from tests.harness.images import Entry, layer_tar, write_image

FICLONE = 0x40049409
MEGABYTES = 192
CLONES = 8
SEED = int(os.environ.get("SOAK_SEED", "11"))


@contextmanager
def mounted(image: Path, point: Path) -> Iterator[Path]:
    point.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(point)], check=True, timeout=60)
    try:
        yield point
    finally:
        subprocess.run(["umount", str(point)], check=True, timeout=60)


def clone(source: Path, target: Path) -> None:
    with open(source, "rb") as old, open(target, "wb") as new:
        fcntl.ioctl(new.fileno(), FICLONE, old.fileno())


def rows(database: Path, table: str) -> list[dict[str, Any]]:
    """Read as the next daemon would: with what the log holds."""
    with closing(sqlite3.connect(database)) as db:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name=?", (table,)).fetchone():
            return []
        return [msgspec.msgpack.decode(row[-1]) for row in db.execute(f"SELECT * FROM {table}").fetchall()]


class Work:
    """Imports and removals, one after the other; what has returned has happened."""

    def __init__(self, daemon: PrivateDaemon, directory: Path) -> None:
        self._daemon = daemon
        self._directory = directory
        self.files: dict[str, bytes] = {}  # by chain id: the one file of a layer
        self.done: set[str] = set()  # images that are there
        self.failures: list[str] = []
        self.stop = threading.Event()

    def run(self, number: int) -> None:
        turn = 0
        while not self.stop.is_set():
            turn += 1
            data = os.urandom(200_000)
            name = f"docker.io/library/w{number}:{turn}"
            path = self._directory / f"{number}.tar"
            built = write_image(path, [layer_tar([Entry("file", data)])], name=name)
            self.files[built.diff_ids[0]] = data
            self._imod("images", "import", str(path))
            self.done.add(name)
            if turn % 3 == 0:
                old = f"docker.io/library/w{number}:{turn - 2}"
                self.done.discard(old)
                self._imod("images", "rm", old)
                self._imod("gc")

    def _imod(self, *words: str) -> None:
        done = self._daemon.imod(*words)
        if done.returncode:
            self.failures.append(f"{words}: {done.stderr}")


def check(root: Path, work: Work, promised: set[str]) -> tuple[int, int]:
    """Every row's data; returns how many blobs and snapshots there were."""
    database = root / "metadata/sqlite/metadata.db"
    content, snapshots = rows(database, "content"), rows(database, "snapshots")
    names = {row["name"] for row in rows(database, "images")}
    assert promised <= names, f"{promised - names} had been recorded before"
    for row in content:
        data = (root / "content/local/blobs/sha256" / row["digest"][7:]).read_bytes()
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == row["digest"]
    known = {row["digest"] for row in content}
    assert {row["target"]["digest"] for row in rows(database, "images")} <= known
    with closing(sqlite3.connect(root / "snapshotters/overlayfs/records.db")) as db:
        ids = dict(db.execute("SELECT key, id FROM snapshots").fetchall())
    committed = [row for row in snapshots if row["kind"] == "committed"]
    for row in committed:
        directory = root / "snapshotters/overlayfs/snapshots" / str(ids[row["object"]])
        assert (directory / "fs/file").read_bytes() == work.files[row["key"]], row
    return len(content), len(committed)


@pytest.mark.slow
def test_power_fails_while_clients_work(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    with btrfs(tmp_path, 2048) as place:
        disk = place / "disk.img"
        with open(disk, "wb") as file:
            file.truncate(MEGABYTES << 20)
        subprocess.run(["mkfs.ext4", "-q", str(disk)], check=True, timeout=60)
        promised: list[set[str]] = []
        with mounted(disk, tmp_path / "disk") as point, on(point) as daemon:
            work = Work(daemon, tmp_path)
            workers = [threading.Thread(target=work.run, args=(number,)) for number in range(2)]
            for worker in workers:
                worker.start()
            try:
                for number in range(CLONES):
                    time.sleep(chance.uniform(0.2, 0.9))  # any moment
                    before = set(work.done)
                    clone(disk, place / f"clone-{number}")
                    promised.append(before & set(work.done))  # a removal may have come between
            finally:
                work.stop.set()
                for worker in workers:
                    worker.join(60)
            assert work.failures == []
        found = []
        for number in range(CLONES):
            with mounted(place / f"clone-{number}", tmp_path / f"clone-{number}") as point:
                found.append(check(point / "root", work, promised[number]))
        assert max(blobs for blobs, _ in found) >= 6
        assert max(snapshots for _, snapshots in found) >= 2
        assert any(promised)


@contextmanager
def on(disk: Path) -> Iterator[PrivateDaemon]:
    """A daemon with its root on that disk, and its state elsewhere."""
    daemon = PrivateDaemon(start=False)
    daemon.root = disk / "root"
    with daemon:
        daemon.start()
        yield daemon
        daemon.end()
