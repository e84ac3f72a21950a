"""Images: taken in from every form of archive, named, unpacked, refused where they are not what they say."""

import io
import os
import subprocess
import tarfile
import threading
from pathlib import Path
from typing import IO

import pytest
from intermodal import Client, DataLoss, IntermodalError, InvalidArgument, NotFound

from tests.harness.images import Built, Compression, Entry, Form, busybox_layout, layer_tar, write_image

FORMS: list[tuple[Form, Compression]] = [("oci", "gzip"), ("oci", "zstd"), ("oci", "none"), ("docker-archive", "none")]


@pytest.mark.parametrize(("form", "compression"), FORMS)
def test_import_and_run(client: Client, tmp_path: Path, form: Form, compression: Compression) -> None:
    extra = [layer_tar([Entry("two", b"second layer\n")])]
    built = busybox_layout(tmp_path / "i.tar", form=form, compression=compression, extra_layers=extra)
    (image,) = client.images.import_(built.path, labels={"a": "b"})
    assert (image.name, image.short_name) == ("docker.io/library/busybox:latest", "busybox:latest")
    assert image.labels == {"a": "b"}
    assert image.config().rootfs.diff_ids == built.diff_ids
    assert image.config().config.cmd == ("sh",)
    assert client.containers.run("busybox", ["cat", "/two"]).text == "second layer\n"


@pytest.mark.parametrize("tool", [["oci-archive"], ["docker-archive"]])
def test_archives_of_skopeo(client: Client, busybox: Built, tmp_path: Path, tool: list[str]) -> None:
    target = f"{tool[0]}:{tmp_path}/copy.tar:docker.io/library/copied:1"
    command = ["skopeo", "copy", "-q", "--insecure-policy", f"oci-archive:{busybox.path}", target]
    subprocess.run(command, check=True, timeout=60)
    client.images.import_(tmp_path / "copy.tar")
    assert client.containers.run("copied:1", ["echo", "ran"]).text == "ran\n"


@pytest.mark.parametrize("snapshotter", ["overlayfs", "native"])
def test_every_snapshotter(ready: Client, snapshotter: str) -> None:
    container = ready.containers.run("busybox", detach=True, snapshotter=snapshotter)
    assert container.snapshotter == snapshotter
    # Groups come from the image's own files.
    assert container.exec.run(["id", "-G"], user="guest").text == "1000 1001\n"


def test_the_namespaces_snapshotter_is_the_default(ready: Client) -> None:
    ready.namespaces.set_labels(ready.namespace, {"containerd.io/defaults/snapshotter": "native"})
    assert ready.containers.create("native", image="busybox").snapshotter == "native"


def test_from_open_files_and_pipes(client: Client, busybox: Built) -> None:
    with open(busybox.path, "rb") as file:
        client.images.import_(file, name="from-file:1")
    read_end, write_end = os.pipe()

    def feed() -> None:
        with open(write_end, "wb") as pipe:
            pipe.write(busybox.path.read_bytes())

    thread = threading.Thread(target=feed)
    thread.start()
    with open(read_end, "rb") as pipe:
        client.images.import_(pipe, name="from-pipe")
    thread.join(10)
    names = [image.short_name for image in client.images.list()]
    assert names == ["from-file:1", "from-pipe:latest"]


def test_names(ready: Client) -> None:
    image = ready.images.get("busybox")
    assert image.digest == ready.images.get("docker.io/library/busybox:latest").digest
    assert image.size() > 100_000
    tagged = image.tag("other/name:v1")
    assert (tagged.name, tagged.digest) == ("docker.io/other/name:v1", image.digest)
    assert ready.images.exists("other/name:v1")
    assert [each.short_name for each in ready.images.list(["name~=other"])] == ["other/name:v1"]
    image.delete(sync=True)
    assert not ready.images.exists("busybox")
    # The other name keeps the content.
    assert ready.containers.run("other/name:v1", ["echo", "still"]).text == "still\n"
    with pytest.raises(NotFound):
        ready.images.get("busybox")
    with pytest.raises(InvalidArgument):
        ready.images.get("Not A Name")


def test_unpacked_snapshots_live_as_long_as_the_image(ready: Client) -> None:
    ready.images.get("busybox").unpack()
    ready.containers.run("busybox", ["true"])
    # A deletion with collection: the snapshots of the remaining name must survive it.
    ready.images.get("busybox").tag("second:1")
    ready.images.delete("second:1", sync=True)
    assert ready.containers.run("busybox", ["true"]).exit_code == 0


def _without(archive: Path, suffix: str) -> IO[bytes]:
    """The archive with the last byte of the member `suffix` turned over."""
    out = io.BytesIO()
    with tarfile.open(archive) as source, tarfile.open(fileobj=out, mode="w") as target:
        for member in source.getmembers():
            file = source.extractfile(member)
            assert file is not None
            data = bytearray(file.read())
            if member.name.endswith(suffix):
                data[-1] ^= 1
            target.addfile(member, io.BytesIO(bytes(data)))
    out.seek(0)
    return out


def test_a_layer_that_is_not_its_digest(client: Client, busybox: Built) -> None:
    with pytest.raises(DataLoss, match=busybox.layers[0]):
        client.images.import_(_without(busybox.path, busybox.layers[0][7:]))
    assert client.images.list() == []
    assert client.images.import_(busybox.path)  # what was begun is no obstacle


def test_a_layer_that_is_not_its_diff_id(client: Client, busybox: Built, tmp_path: Path) -> None:
    other = write_image(tmp_path / "o.tar", [layer_tar([Entry("x", b"y")])], cmd=["x"], name="docker.io/library/o:1")
    archive = _swap_config(busybox, other, tmp_path)
    client.images.import_(archive, name="liar:1")
    with pytest.raises(IntermodalError, match=r"unpacks to sha256:|wrong diff|diff"):
        client.containers.create("liar", image="liar:1")
    assert client.containers.list() == []


def _swap_config(first: Built, second: Built, tmp_path: Path) -> Path:
    """An archive with the first image's layer under the second one's config."""
    import hashlib
    import json

    with tarfile.open(first.path) as one, tarfile.open(second.path) as two:
        files = {member.name: one.extractfile(member).read() for member in one.getmembers()}  # type: ignore[union-attr]
        config_name = f"blobs/sha256/{second.config[7:]}"
        config = two.extractfile(config_name).read()  # type: ignore[union-attr]
    manifest = json.loads(files.pop(f"blobs/sha256/{first.manifest[7:]}"))
    manifest["config"] |= {"digest": second.config, "size": len(config)}
    encoded = json.dumps(manifest).encode()
    digest = hashlib.sha256(encoded).hexdigest()
    index = json.loads(files["index.json"])
    index["manifests"][0] |= {"digest": f"sha256:{digest}", "size": len(encoded)}
    files |= {"index.json": json.dumps(index).encode(), config_name: config, f"blobs/sha256/{digest}": encoded}
    path = tmp_path / "swapped.tar"
    path.write_bytes(layer_tar([Entry(name, data, mode=0o644) for name, data in files.items()]))
    return path


def test_what_is_no_archive(client: Client, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        client.images.import_(tmp_path / "absent.tar")
    (tmp_path / "text").write_text("no tar")
    with pytest.raises(InvalidArgument, match="tar"):
        client.images.import_(tmp_path / "text")
    (tmp_path / "other.tar").write_bytes(layer_tar([Entry("x", b"y")]))
    with pytest.raises(InvalidArgument, match="no image"):
        client.images.import_(tmp_path / "other.tar")
    truncated = busybox_layout(tmp_path / "t.tar").path
    truncated.write_bytes(truncated.read_bytes()[:300_000])
    with pytest.raises(IntermodalError):
        client.images.import_(truncated)
    unnamed = busybox_layout(tmp_path / "u.tar", name="latest").path
    with pytest.raises(InvalidArgument, match="give a name"):
        client.images.import_(unnamed)
    assert client.images.list() == []
