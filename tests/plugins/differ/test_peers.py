"""Layers as umoci and buildah write them, and the whole of a real image against umoci's own unpacking."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(not shutil.which("umoci"), reason="umoci is not installed")


def run(*command: str, cwd: Path) -> None:
    subprocess.run(command, cwd=cwd, check=True, timeout=120, stdout=subprocess.DEVNULL)


def layers_of(layout: Path) -> list[tuple[str, bytes, str]]:
    """Media type, blob and diff id of each layer of the layout's only image."""

    def blob(digest: str) -> bytes:
        return (layout / "blobs" / digest.replace(":", "/")).read_bytes()

    manifest = json.loads(blob(json.loads((layout / "index.json").read_text())["manifests"][-1]["digest"]))
    diff_ids = json.loads(blob(manifest["config"]["digest"]))["rootfs"]["diff_ids"]
    layers = zip(manifest["layers"], diff_ids, strict=True)
    return [(layer["mediaType"], blob(layer["digest"]), diff_id) for layer, diff_id in layers]


def write_first(root: Path) -> None:
    (root / "etc").mkdir()
    (root / "etc" / "motd").write_text("hello")
    (root / "bin").mkdir()
    (root / "bin" / "tool").write_bytes(os.urandom(100_000))
    os.link(root / "bin" / "tool", root / "bin" / "alias")
    (root / "lib").symlink_to("usr/lib")
    (root / "usr" / "lib").mkdir(parents=True)
    (root / "usr" / "lib" / "x").write_text("x")
    os.chown(root / "etc", 10, 20)
    (root / "etc").chmod(0o2750)
    (root / "bin" / "tool").chmod(0o4755)
    os.setxattr(root / "etc" / "motd", "user.k", b"v")
    os.mkfifo(root / "fifo")
    (root / os.fsdecode(b"caf\xe9")).write_text("latin")
    os.utime(root / "etc" / "motd", ns=(1, 1_500_000_000_000_000_000))


def write_second(root: Path) -> None:
    (root / "etc" / "motd").unlink()
    (root / "etc" / "new").write_text("new")
    shutil.rmtree(root / "usr")
    (root / "usr").write_text("a file now")
    (root / "lib").unlink()
    (root / "lib").mkdir()
    (root / "lib" / "y").write_text("y")


def test_layers_of_umoci_give_what_umoci_unpacks(lab: Any, tmp_path: Path) -> None:
    run("umoci", "init", "--layout", "img", cwd=tmp_path)
    run("umoci", "new", "--image", "img:t", cwd=tmp_path)
    run("umoci", "unpack", "--image", "img:t", "bundle", cwd=tmp_path)
    for write in (write_first, write_second):
        write(tmp_path / "bundle" / "rootfs")
        run("umoci", "repack", "--refresh-bundle", "--image", "img:t", "bundle", cwd=tmp_path)
    run("umoci", "unpack", "--image", "img:t", "again", cwd=tmp_path)
    theirs = lab.listing(tmp_path / "again" / "rootfs")
    layers = layers_of(tmp_path / "img")
    assert len(layers) == 2

    native, mount = lab.directory()
    for media_type, blob, diff_id in layers:
        assert lab.apply(blob, [mount], media_type).diff_id == diff_id
    first, mount = lab.directory()
    lab.apply(layers[0][1], [mount], layers[0][0])
    _, mount = lab.overlay(first)
    lab.apply(layers[1][1], [mount], layers[1][0])
    with lab.seen(mount) as merged:
        ours = lab.listing(merged)
    assert ours == lab.listing(native)
    assert ours == theirs
    assert b"usr/lib" not in ours
    assert b"etc/motd" not in ours


@pytest.mark.skipif(not shutil.which("buildah"), reason="buildah is not installed")
def test_a_layer_of_buildah(lab: Any, tmp_path: Path) -> None:
    content = tmp_path / "content"
    content.mkdir()
    write_first(content)
    store = ["--root", str(tmp_path / "store"), "--runroot", str(tmp_path / "run"), "--storage-driver", "vfs"]

    def buildah(*command: str) -> str:
        done = subprocess.run(
            ["buildah", *store, *command], cwd=tmp_path, check=True, timeout=120, stdout=subprocess.PIPE, text=True
        )
        return done.stdout.strip()

    container = buildah("from", "scratch")
    (content / "fifo").unlink()  # buildah copies no FIFOs
    buildah("copy", container, str(content), "/")
    for extra in ([], ["--compression-format", "zstd"]):
        layout = tmp_path / f"layout{len(extra)}"
        if extra:
            buildah("push", *extra, "--format", "oci", "made", f"oci:{layout}")
        else:
            buildah("commit", container, "made")
            buildah("push", "--format", "oci", "made", f"oci:{layout}")
        top, mount = lab.directory()
        for media_type, blob, diff_id in layers_of(layout):
            assert lab.apply(blob, [mount], media_type).diff_id == diff_id
        found, given = lab.listing(top), lab.listing(content)
        assert found.keys() == given.keys()
        assert [(path, found[path][4]) for path in found] == [(path, given[path][4]) for path in found]
        assert found[b"bin/tool"][0] == "0o104755"
