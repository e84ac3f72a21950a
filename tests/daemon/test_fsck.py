"""What is on disk does not fit, or the records are lost: it is said, and comes back as far as the disk tells."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

from intermodal_api.containerd.services import content_pb2

from tests.harness.api import Api
from tests.harness.daemon import PrivateDaemon
from tests.harness.images import Built, Entry, layer_tar, write_image
from tests.harness.waiting import until
from tests.harness.world import settled

SECONDS = 20
COPIES = "root/metadata/sqlite/copies"


def fsck(daemon: PrivateDaemon, *words: str) -> dict[str, Any]:
    done = daemon.imod("fsck", "-o", "json", *words)
    assert done.returncode in (0, 1), done.stderr
    found = json.loads(done.stdout)
    assert done.returncode == bool(found["findings"])
    return dict(found)


def said(daemon: PrivateDaemon, *words: str) -> set[tuple[str, str, str]]:
    return {(each["type"], each["key"], each["what"]) for each in fsck(daemon, *words)["findings"]}


def start(daemon: PrivateDaemon, name: str) -> None:
    daemon.imod("run", "-d", "--name", name, "--net", "none", "busybox", "sleep", "1000", check=True)


def test_a_store_that_fits(busybox_daemon: PrivateDaemon) -> None:
    start(busybox_daemon, "c")
    assert fsck(busybox_daemon, "--deep") == {"findings": [], "rebuilt": None}
    done = busybox_daemon.imod("fsck", check=True)
    assert (done.stdout, done.stderr) == ("", "all fits\n")
    busybox_daemon.imod("rm", "-f", "c", check=True)


def test_each_thing_that_does_not_fit(busybox_daemon: PrivateDaemon, busybox: Built) -> None:
    daemon = busybox_daemon
    blobs = daemon.root / "content/local/blobs/sha256"
    with Api(daemon.address, daemon.namespace) as api:
        for data in (b"short", b"flipped"):
            message = content_pb2.WriteContentRequest(action=content_pb2.COMMIT, ref="r", data=data)
            api.send(content_pb2, "Write", [message])
    by_size = {path.stat().st_size: path for path in blobs.iterdir()}
    (blobs / busybox.config[7:]).unlink()
    by_size[5].write_bytes(b"cut")
    by_size[7].write_bytes(b"FLIPPED")
    daemon.end()
    (blobs / ("f" * 64)).write_bytes(b"nobody's")
    os.utime(blobs / ("f" * 64), (1, 1))
    daemon.start()
    found = said(daemon, "--deep")
    assert ("content", busybox.config, "its bytes are gone: pull or import again what it belongs to") in found
    assert ("content", f"sha256:{by_size[5].name}", "it has 3 bytes, and its record says 5") in found
    assert any(key.endswith(by_size[7].name) and "the disk has changed them" in what for _, key, what in found)
    assert any(key == f"sha256:{'f' * 64}" and "no record of it" in what for _, key, what in found)
    assert len(found) == 4, found


def lost(daemon: PrivateDaemon, how: str) -> None:
    """Ends the daemon, and damages or removes the database."""
    daemon.kill9()
    database = daemon.root / "metadata/sqlite/metadata.db"
    for suffix in ("-wal", "-shm"):
        Path(f"{database}{suffix}").unlink(missing_ok=True)
    if how == "gone":
        database.unlink()
    else:
        size = database.stat().st_size
        with open(database, "r+b") as file:
            file.seek(0)
            file.write(os.urandom(size))


def rebuilt(daemon: PrivateDaemon) -> dict[str, Any]:
    daemon.start()  # it serves, and says what is wrong
    refused = daemon.imod("ps")
    assert refused.returncode == 125
    assert "imod fsck --rebuild" in refused.stderr, refused.stderr
    daemon.imod("fsck", "--rebuild", check=True)
    daemon.restart()
    report = fsck(daemon)
    assert report["findings"] == []
    return dict(report["rebuilt"])


def whole(daemon: PrivateDaemon, manifest: str) -> None:
    """An image under its digest, for any client."""
    command = ["ctr", "--address", daemon.address, "--namespace", "default", "images", "check", f"name=={manifest}"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    assert "complete (2/2)" in shown, shown


def test_lost_records_come_back_from_a_copy_and_the_disk(busybox_daemon: PrivateDaemon, tmp_path: Path) -> None:
    """The copy is of the last stop; what was made since comes back by what is on disk: containers that run, and an image."""
    daemon = busybox_daemon
    start(daemon, "old")
    daemon.restart()  # which makes the copy
    start(daemon, "new")
    later = write_image(tmp_path / "i.tar", [layer_tar([Entry("a", b"later")])], name="docker.io/library/later:1")
    daemon.imod("images", "import", str(later.path), check=True)
    pids = {name: json.loads(daemon.imod("inspect", name, check=True).stdout)[0]["pid"] for name in ("old", "new")}
    lost(daemon, "damaged")
    report = rebuilt(daemon)
    assert report["source"].startswith("metadata-")
    assert [each["key"] for each in report["images"]] == [later.manifest]
    for name in ("old", "new"):
        until(lambda name=name: daemon.imod("exec", name, "true").returncode == 0, SECONDS)  # type: ignore[misc]
        assert json.loads(daemon.imod("inspect", name, check=True).stdout)[0]["pid"] == pids[name]
        daemon.imod("rm", "-f", name, check=True)
    whole(daemon, later.manifest)
    daemon.imod("run", "--rm", "--net", "none", "busybox", "true", check=True)
    daemon.restart()
    assert fsck(daemon) == {"findings": [], "rebuilt": None}
    settled(daemon)


def test_without_a_copy_all_images_come_back_by_digest(busybox_daemon: PrivateDaemon, busybox: Built) -> None:
    daemon = busybox_daemon
    start(daemon, "c")
    assert not (daemon.base / COPIES).exists()
    lost(daemon, "damaged")
    report = rebuilt(daemon)
    assert report["source"] == "an empty database"
    assert [each["key"] for each in report["images"]] == [busybox.manifest]
    until(lambda: daemon.imod("exec", "c", "true").returncode == 0, SECONDS)
    daemon.imod("rm", "-f", "c", check=True)
    whole(daemon, busybox.manifest)


def test_a_database_that_is_gone_is_not_begun_anew(busybox_daemon: PrivateDaemon) -> None:
    """An empty one would take every snapshot for a left-over; nothing is removed before somebody decides."""
    daemon = busybox_daemon
    daemon.restart()
    lost(daemon, "gone")
    snapshots = os.listdir(daemon.root / "snapshotters/overlayfs/snapshots")
    report = rebuilt(daemon)
    assert report["images"] == []
    assert os.listdir(daemon.root / "snapshotters/overlayfs/snapshots") == snapshots
    daemon.imod("run", "--rm", "--net", "none", "busybox", "true", check=True)


def test_copies_are_kept_at_stop_after_changes(daemon: PrivateDaemon) -> None:
    with Api(daemon.address, daemon.namespace) as api:
        for number in range(5):
            message = content_pb2.WriteContentRequest(action=content_pb2.COMMIT, ref="r", data=bytes([number]))
            api.send(content_pb2, "Write", [message])
            daemon.restart()
    copies = sorted((daemon.base / COPIES).iterdir())
    assert len(copies) == 3
    with closing(sqlite3.connect(copies[-1])) as connection:
        assert connection.execute("SELECT count(*) FROM content").fetchone() == (5,)
