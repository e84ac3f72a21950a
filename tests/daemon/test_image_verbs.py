"""`imod images` export, convert, inspect, history, prune, mount: and what skopeo and umoci make of the archives."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.daemon import PrivateDaemon
from tests.harness.images import NAME, Built, Entry, busybox_layout, layer_tar
from tests.harness.world import settled


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    more = layer_tar([Entry("etc/new", b"new"), Entry("etc/.wh.group", b"")])
    return busybox_layout(tmp_path_factory.mktemp("image") / "busybox.tar", extra_layers=[more])


@pytest.fixture(scope="module")
def shared(built: Built) -> Iterator[PrivateDaemon]:
    with PrivateDaemon() as daemon:
        daemon.imod("images", "import", str(built.path), check=True)
        yield daemon


@pytest.fixture
def daemon(shared: PrivateDaemon) -> Iterator[PrivateDaemon]:
    yield shared
    settled(shared)


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, timeout=120, check=False, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def inspected(daemon: PrivateDaemon, *arguments: str) -> Any:
    return json.loads(daemon.imod("images", "inspect", *arguments, check=True).stdout)[0]


def again(archive: Path | str) -> Any:
    """What another daemon knows of an archive after it has imported it."""
    with PrivateDaemon() as other:
        other.imod("images", "import", str(archive), check=True)
        found = json.loads(other.imod("images", "inspect", NAME, check=True).stdout)[0]
        assert other.imod("run", "--rm", "busybox", "cat", "/etc/new", check=True).stdout == "new"
        return found


def test_export_keeps_digests(daemon: PrivateDaemon, built: Built, tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    daemon.imod("images", "export", str(archive), "busybox", check=True)
    assert again(archive)["manifest"]["digest"] == built.manifest
    piped = subprocess.run(
        daemon.imod_command("images", "export", "-", "busybox"), stdout=subprocess.PIPE, check=True, timeout=60
    )
    assert piped.stdout == archive.read_bytes()
    run("skopeo", "copy", "--preserve-digests", f"oci-archive:{archive}", f"oci:{tmp_path}/skopeo:1")
    index = json.loads((tmp_path / "skopeo/index.json").read_text())
    assert index["manifests"][0]["digest"] == built.manifest
    # Docker's tools read the same file.
    assert json.loads(run("skopeo", "inspect", "--config", f"docker-archive:{archive}"))["rootfs"]["diff_ids"] == list(
        built.diff_ids
    )


def test_export_to_a_directory(daemon: PrivateDaemon, built: Built, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    daemon.imod("images", "export", f"{layout}/", "busybox", check=True)
    assert (layout / "blobs/sha256" / built.manifest[7:]).exists()
    run("umoci", "stat", "--image", f"{layout}:latest", "--json")
    assert again(layout)["manifest"]["digest"] == built.manifest
    refused = daemon.imod("images", "export", f"{layout}/", "busybox")
    assert "is not empty" in refused.stderr


def test_a_round_trip_through_umoci(daemon: PrivateDaemon, built: Built, tmp_path: Path) -> None:
    """What umoci adds to our export is a layer more, and the others are the same."""
    layout = tmp_path / "layout"
    daemon.imod("images", "export", f"{layout}/", "busybox", check=True)
    (tmp_path / "added").write_text("added")
    run("umoci", "insert", "--image", f"{layout}:latest", tmp_path / "added", "/added")
    daemon.imod("images", "import", str(layout), "--name", "more:1", check=True)
    assert daemon.imod("run", "--rm", "more:1", "cat", "/added", check=True).stdout == "added"
    layers = [layer["blob"]["digest"] for layer in inspected(daemon, "more:1")["layers"]]
    assert layers[:-1] == list(built.layers)
    daemon.imod("images", "rm", "more:1", check=True)


def test_dockers_own_format(daemon: PrivateDaemon, built: Built, tmp_path: Path) -> None:
    archive = tmp_path / "docker.tar"
    daemon.imod("images", "export", "--format", "docker", str(archive), "busybox", check=True)
    with tarfile.open(archive) as tar:
        names = tar.getnames()
    assert "manifest.json" in names
    assert "index.json" not in names
    assert again(archive)["config_blob"]["digest"] == built.config


def test_an_export_that_fails_leaves_nothing(daemon: PrivateDaemon, tmp_path: Path) -> None:
    target = tmp_path / "image.tar"
    target.write_text("old")
    refused = daemon.imod("images", "export", str(target), "nobody")
    assert (refused.returncode, refused.stderr.count("\n")) == (125, 1)
    assert os.listdir(tmp_path) == ["image.tar"]
    assert target.read_text() == "old"
    with subprocess.Popen(daemon.imod_command("images", "export", "-", "busybox"), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1000)
        process.stdout.close()  # nobody reads on
        process.wait(30)


def test_blobs_that_are_gone(daemon: PrivateDaemon, built: Built, tmp_path: Path) -> None:
    """Export says what is missing and how to have it again."""
    with PrivateDaemon() as own:
        own.imod("images", "import", str(built.path), check=True)
        own.ctr("content", "rm", built.layers[1], check=True)
        refused = own.imod("images", "export", str(tmp_path / "x.tar"), "busybox")
        assert f"imod images pull {NAME}" in refused.stderr
        assert built.layers[1] in refused.stderr
        assert [
            layer["here"] for layer in json.loads(own.imod("images", "inspect", "busybox").stdout)[0]["layers"]
        ] == [True, False]


def test_convert_there_and_back(daemon: PrivateDaemon, built: Built) -> None:
    assert daemon.imod("images", "convert", "busybox", "zstd:1", check=True).stdout == "docker.io/library/zstd:1\n"
    zstd = inspected(daemon, "zstd:1")
    assert {layer["blob"]["mediaType"].rpartition("+")[2] for layer in zstd["layers"]} == {"zstd"}
    assert [layer["diff_id"] for layer in zstd["layers"]] == list(built.diff_ids)
    assert daemon.imod("run", "--rm", "zstd:1", "cat", "/etc/new", check=True).stdout == "new"
    daemon.imod("images", "convert", "--to", "gzip", "zstd:1", "gzip:1", check=True)
    gzip = inspected(daemon, "gzip:1")
    assert [layer["diff_id"] for layer in gzip["layers"]] == list(built.diff_ids)
    # The same chain: nothing is unpacked anew.
    assert gzip["unpacked"] == ["overlayfs"]
    daemon.imod("images", "rm", "zstd:1", "gzip:1", check=True)


def test_history_and_inspect(daemon: PrivateDaemon, built: Built, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    daemon.imod("images", "from-rootfs", str(tmp_path), "made:1", check=True)
    heading, line = daemon.imod("images", "history", "made:1", check=True).stdout.splitlines()
    assert heading.split() == ["LAYER", "CREATED", "SIZE", "BY", "COMMENT"]
    assert "imod images from-rootfs made:1" in line
    view = inspected(daemon, "busybox")
    assert view["image"]["name"] == NAME
    assert view["config"]["config"]["Cmd"] == ["sh"]
    assert view["unpacked"] == ["overlayfs"]
    assert len(json.loads(daemon.imod("images", "history", "-o", "json", "busybox", check=True).stdout)) == 2
    daemon.imod("images", "rm", "made:1", check=True)


def test_prune_forgets_what_no_container_uses(built: Built, tmp_path: Path) -> None:
    with PrivateDaemon() as daemon:
        daemon.imod("images", "import", str(built.path), check=True)
        (tmp_path / "file").write_text("x")
        daemon.imod("images", "from-rootfs", str(tmp_path), "unused:1", check=True)
        daemon.imod("create", "--name", "user", "busybox", check=True)
        told = daemon.imod("images", "prune", "--dry-run", check=True)
        assert told.stdout == "docker.io/library/unused:1\n"
        assert len(daemon.imod("images", "ls", "-q", check=True).stdout.split()) == 2
        assert daemon.imod("images", "prune", check=True).stdout == told.stdout
        assert daemon.imod("images", "ls", "-q", check=True).stdout == f"{NAME}\n"
        daemon.imod("rm", "user", check=True)
        settled(daemon)
        assert daemon.imod("images", "prune", check=True).stdout == f"{NAME}\n"
        assert daemon.ctr("content", "ls", "-q", check=True).stdout == ""


@pytest.mark.parametrize("snapshotter", ["overlayfs", "native"])
def test_mount_and_unmount(daemon: PrivateDaemon, tmp_path: Path, snapshotter: str) -> None:
    place = tmp_path / "mounted"
    assert "make it first" in daemon.imod("images", "mount", "busybox", str(place)).stderr
    place.mkdir()
    options = ("--snapshotter", snapshotter)
    daemon.imod("images", "mount", *options, "busybox", str(place), check=True)
    try:
        assert (place / "etc/new").read_text() == "new"
        assert not (place / "etc/group").exists()
        with pytest.raises(OSError, match="Read-only"):
            (place / "written").write_text("x")
        daemon.imod("gc", check=True)
        assert (place / "bin/busybox").exists()
    finally:
        daemon.imod("images", "unmount", str(place), check=True)
    assert os.listdir(place) == []
    assert "no image of this namespace is mounted" in daemon.imod("images", "unmount", str(place)).stderr
    daemon.imod("images", "mount", "--rw", *options, "busybox", str(place), check=True)
    (place / "written").write_text("x")
    # What is mounted and open below does not keep it.
    (place / "below").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place / "below"], check=True)
    with open(place / "below/open", "w") as open_file:
        open_file.write("x")
        daemon.imod("images", "unmount", str(place), check=True)
    assert os.listdir(place) == []
