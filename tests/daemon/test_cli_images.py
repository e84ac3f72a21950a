"""`imod images`: what is imported, how it is listed, how it goes."""

import json
import os
import pty
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.daemon import PrivateDaemon
from tests.harness.images import NAME, Built, busybox_layout


@pytest.fixture(scope="module")
def daemon() -> Iterator[PrivateDaemon]:
    with PrivateDaemon() as private:
        yield private


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return busybox_layout(tmp_path_factory.mktemp("image") / "busybox.tar")


@pytest.fixture(autouse=True)
def no_images(daemon: PrivateDaemon) -> Iterator[None]:
    yield
    names = daemon.imod("images", "ls", "-q", check=True).stdout.split()
    if names:
        daemon.imod("images", "rm", *names, check=True)


def test_a_file_is_imported_and_listed(daemon: PrivateDaemon, archive: Built) -> None:
    assert daemon.imod("images", "import", str(archive.path), check=True).stdout == f"{NAME}\n"
    (row,) = json.loads(daemon.imod("images", "ls", "-o", "json", check=True).stdout)
    assert (row["name"], row["target"]["digest"]) == (NAME, archive.manifest)
    headings, line = daemon.imod("images", "ls", check=True).stdout.splitlines()
    assert headings.split() == ["IMAGE", "DIGEST", "CREATED"]
    assert line.startswith(f"{NAME}  {archive.manifest[:19]}  ")
    assert daemon.imod("images", "rm", "busybox", check=True).stdout == f"{NAME}\n"
    assert daemon.imod("images", "ls", "-q", check=True).stdout == ""


def test_stdin_and_a_directory_are_the_same_image(daemon: PrivateDaemon, archive: Built, tmp_path: Path) -> None:
    data = archive.path.read_bytes()
    subprocess.run(["tar", "-x", "-C", tmp_path], input=data, check=True, timeout=60)
    assert daemon.imod("images", "import", "-", input=data, check=True).stdout == f"{NAME}\n"
    done = daemon.imod("images", "import", str(tmp_path), "--name", "a:1", "--name", "b", "--no-unpack", check=True)
    assert done.stdout.split() == ["docker.io/library/a:1", "docker.io/library/b:latest"]
    rows = json.loads(daemon.imod("images", "ls", "-o", "json", check=True).stdout)
    assert {row["target"]["digest"] for row in rows} == {archive.manifest}
    assert len(rows) == 3


def test_a_docker_archive(daemon: PrivateDaemon, tmp_path: Path) -> None:
    built = busybox_layout(tmp_path / "d.tar", form="docker-archive", name="docker.io/library/bb:2")
    assert daemon.imod("images", "import", str(built.path), check=True).stdout == "docker.io/library/bb:2\n"


def test_from_rootfs(daemon: PrivateDaemon, tmp_path: Path) -> None:
    (tmp_path / "hello").write_text("x")
    made = daemon.imod(
        "images", "from-rootfs", "-e", "A=1", "--label", "k=v", str(tmp_path), "made:1", "--cmd", "sh", "-c", "x", check=True
    )  # fmt: skip
    assert made.stdout == "docker.io/library/made:1\n"
    refused = daemon.imod("images", "from-rootfs", str(tmp_path / "hello"), "made:2")
    assert (refused.returncode, refused.stderr) == (125, f"imod: {tmp_path}/hello is no directory\n")


def test_from_a_link_to_a_rootfs(daemon: PrivateDaemon, tmp_path: Path) -> None:
    """Two names of one directory make one layer."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real/hello").write_text("x")
    (tmp_path / "link").symlink_to("real")
    layers = []
    for name in ("real", "link"):
        daemon.imod("images", "from-rootfs", str(tmp_path / name), f"{name}:1", check=True)
        daemon.imod("create", "--name", name, f"{name}:1", "true", check=True)
        layers.append(daemon.ctr("snapshots", "ls", check=True).stdout.count("Committed"))
        daemon.imod("rm", name, check=True)
    assert layers[0] == layers[1], "the link's layer is another one"


@pytest.mark.parametrize("data", [b"", b"garbage", b"\x1f\x8b\x08garbage", bytes(10240)])
def test_what_is_no_archive_is_refused(daemon: PrivateDaemon, data: bytes) -> None:
    done = daemon.imod("images", "import", "-", input=data)
    assert done.returncode == 125
    assert done.stderr.startswith("imod: ")
    assert len(done.stderr.splitlines()) == 1
    assert daemon.imod("images", "ls", "-q", check=True).stdout == ""


def test_what_cannot_be_read_is_said(daemon: PrivateDaemon, tmp_path: Path) -> None:
    assert daemon.imod("images", "import", "/nonexistent").stderr == "imod: /nonexistent: No such file or directory\n"
    assert "is a directory and no OCI layout" in daemon.imod("images", "import", str(tmp_path)).stderr


def test_one_that_is_not_there_does_not_keep_the_others(daemon: PrivateDaemon, archive: Built) -> None:
    daemon.imod("images", "import", "-q", str(archive.path), check=True)
    done = daemon.imod("images", "rm", "nobody", "busybox")
    assert (done.returncode, done.stdout) == (125, f"{NAME}\n")
    assert done.stderr.startswith("imod: ")
    assert "nobody" in done.stderr


def test_bars_on_a_terminal_none_in_a_pipe(daemon: PrivateDaemon, archive: Built) -> None:
    assert daemon.imod("images", "import", str(archive.path), check=True).stderr == ""
    ours, theirs = pty.openpty()
    command = daemon.imod_command("images", "import", str(archive.path))
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # the other end of the terminal is closed
            break
        shown += data
    os.close(ours)
    assert process.wait(60) == 0
    assert b"\x1b[" in shown, "bars are drawn by moving the cursor"
    assert NAME.encode() in shown


def test_namespaces_are_apart(daemon: PrivateDaemon, archive: Built) -> None:
    daemon.imod("images", "import", str(archive.path), check=True)
    other = [*daemon.imod_command()[:3], "-n", "other", "images", "ls", "-q"]
    assert subprocess.run(other, capture_output=True, check=True, timeout=60).stdout == b""
