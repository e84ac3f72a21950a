"""`imod commit`, and layers that stock clients have made by `ctr snapshots diff`."""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.daemon import PrivateDaemon
from tests.harness.images import Built
from tests.harness.world import settled


@pytest.fixture(scope="module")
def shared(busybox: Built) -> Iterator[PrivateDaemon]:
    with PrivateDaemon() as daemon:
        daemon.imod("images", "import", str(busybox.path), check=True)
        yield daemon


@pytest.fixture
def daemon(shared: PrivateDaemon) -> Iterator[PrivateDaemon]:
    yield shared
    settled(shared)


@pytest.mark.parametrize("snapshotter", ["overlayfs", "native"])
def test_what_a_container_changed_is_an_image(daemon: PrivateDaemon, snapshotter: str) -> None:
    script = "echo new > /new; rm /etc/group; chmod 700 /tmp; mkdir -p /a/b; ln /new /a/b/linked; echo x >> /etc/passwd"
    name = f"changed-{snapshotter}"
    daemon.imod("run", "--name", name, "--snapshotter", snapshotter, "busybox", "sh", "-c", script, check=True)
    options = ("--cmd", "cat /new", "-e", "A=1", "-m", "a change", "--author", "me")
    done = daemon.imod("commit", *options, name, f"made:{snapshotter}", check=True)
    assert done.stdout == f"docker.io/library/made:{snapshotter}\n"
    image = f"made:{snapshotter}"
    assert daemon.imod("run", "--rm", image, check=True).stdout == "new\n"
    look = "test ! -e /etc/group && stat -c %a /tmp && stat -c %h /a/b/linked && echo $A && tail -n1 /etc/passwd"
    assert daemon.imod("run", "--rm", image, "sh", "-c", look, check=True).stdout.split() == ["700", "2", "1", "x"]
    daemon.imod("rm", name, check=True)
    daemon.imod("images", "rm", image, check=True)


def test_a_container_that_runs_stands_still_meanwhile(daemon: PrivateDaemon) -> None:
    daemon.imod("run", "-d", "--name", "running", "busybox", "sh", "-c", "echo here > /here; sleep 1000", check=True)
    while daemon.imod("exec", "running", "cat", "/here").stdout != "here\n":
        pass
    daemon.imod("commit", "run", "made:running")
    assert daemon.imod("run", "--rm", "made:running", "cat", "/here", check=True).stdout == "here\n"
    assert json.loads(daemon.imod("inspect", "running", check=True).stdout)[0]["status"] == "running"
    daemon.imod("rm", "--force", "running", check=True)
    daemon.imod("images", "rm", "made:running", check=True)


def test_what_cannot_be_committed(daemon: PrivateDaemon) -> None:
    refused = daemon.imod("commit", "nobody", "made:1")
    assert (refused.returncode, refused.stderr.count("\n")) == (125, 1)
    assert "nobody" in refused.stderr


def test_stock_clients_diff(daemon: PrivateDaemon, tmp_path: Path) -> None:
    """`ctr snapshots diff` of an active snapshot, by our Diff service."""
    daemon.imod("run", "--name", "diffed", "busybox", "sh", "-c", "echo new > /new; rm /etc/group", check=True)
    key = json.loads(daemon.imod("inspect", "diffed", check=True).stdout)[0]["snapshot_key"]
    parent = next(
        line.split()[1] for line in daemon.ctr("snapshots", "ls", check=True).stdout.splitlines() if key in line
    )
    layer = subprocess.run(
        ["ctr", "--address", daemon.address, "-n", daemon.namespace, "snapshots", "diff", "--keep", parent, key],
        check=True,
        capture_output=True,
        timeout=60,
    ).stdout
    (tmp_path / "layer").write_bytes(layer)
    with tarfile.open(tmp_path / "layer") as tar:
        names = tar.getnames()
    assert "new" in names
    assert "etc/.wh.group" in names
    assert "bin/busybox" not in names
    daemon.imod("rm", "diffed", check=True)


def test_from_rootfs_is_the_same_each_time(daemon: PrivateDaemon, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/file").write_text("x")
    (tmp_path / "link").symlink_to("sub")
    for name in ("one:1", "two:1"):
        daemon.imod("images", "from-rootfs", str(tmp_path), name, check=True)
    rows = json.loads(daemon.imod("images", "ls", "-o", "json", check=True).stdout)
    configs = {row["name"]: row["target"]["digest"] for row in rows if row["name"].endswith(("one:1", "two:1"))}
    assert len(configs) == 2
    daemon.imod("images", "rm", "one:1", "two:1", check=True)
