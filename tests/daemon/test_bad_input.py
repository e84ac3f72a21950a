"""Bad input through the daemon: an error of the right code in one sentence, nothing half-made left, and it serves on."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
from intermodal_api.containerd.services import content_pb2, version_pb2
from intermodal_core.syscalls import MNT_DETACH, mount, umount

from tests.harness.daemon import BIN, PrivateDaemon
from tests.harness.disk import fill
from tests.harness.images import Built, write_image
from tests.harness.world import settled

IMAGE = "docker.io/library/bad:1"


def layer(**members: Callable[[tarfile.TarInfo], bytes | None]) -> bytes:
    """A layer of one member for each keyword; the function makes its TarInfo odd and returns its data."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for make in members.values():
            info = tarfile.TarInfo("x")
            data = make(info)
            info.size = len(data or b"")
            tar.addfile(info, io.BytesIO(data or b""))
    return buffer.getvalue()


def named(name: str) -> Callable[[tarfile.TarInfo], bytes]:
    def make(info: tarfile.TarInfo) -> bytes:
        info.name = name
        return b"intruder"

    return make


def linked(kind: bytes, target: str) -> Callable[[tarfile.TarInfo], None]:
    def make(info: tarfile.TarInfo) -> None:
        info.type, info.linkname = kind, target

    return make


def device(info: tarfile.TarInfo) -> None:
    info.type, info.devmajor, info.devminor, info.mode = tarfile.BLKTYPE, 7, 0, 0o666


def refused(daemon: PrivateDaemon, archive: Path, words: str) -> None:
    """The import fails with those words, and nothing of it is there."""
    before = daemon.ctr("content", "ls", "-q", check=True).stdout
    done = daemon.imod("images", "import", str(archive))
    assert done.returncode == 125
    assert words in done.stderr, done.stderr
    assert done.stderr.startswith("imod: ")
    assert done.stderr.count("\n") == 1, "one sentence"
    assert daemon.ctr("content", "ls", "-q", check=True).stdout == before
    assert daemon.imod("images", "ls", "-q", check=True).stdout == ""
    assert daemon.ctr("snapshots", "ls", check=True).stdout.count("\n") == 1
    settled(daemon, client=True)


OUTWARD = {
    "climbing": (layer(a=named("a/../../outside")), ".."),
    "hard-link": (layer(a=linked(tarfile.LNKTYPE, "../../../etc/passwd")), ".."),
}


@pytest.mark.parametrize("way", OUTWARD)
def test_a_layer_that_climbs_out(daemon: PrivateDaemon, tmp_path: Path, way: str) -> None:
    data, words = OUTWARD[way]
    refused(daemon, write_image(tmp_path / "i.tar", [data], name=IMAGE).path, words)
    assert not Path("/outside").exists()


def test_absolute_names_and_links_stay_inside(daemon: PrivateDaemon, tmp_path: Path) -> None:
    """They are legal in a layer, and mean the image's own root."""
    host = tmp_path / "host"
    host.mkdir()

    def way(info: tarfile.TarInfo) -> None:
        info.name, info.type, info.linkname = "way", tarfile.SYMTYPE, str(host)

    upper = layer(a=named(f"{host}/made"), b=way, c=named("way/made-too"))
    image = write_image(tmp_path / "i.tar", [upper], name=IMAGE)
    daemon.imod("images", "import", str(image.path), check=True)
    assert list(host.iterdir()) == []


def test_a_device_where_policy_forbids_it(tmp_path: Path) -> None:
    with PrivateDaemon('[differs.tar]\ndevices = "deny"\n') as daemon:
        refused(daemon, write_image(tmp_path / "i.tar", [layer(a=device)], name=IMAGE).path, "device")


def rewritten(source: Path, target: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """An archive with some of its files changed, their names left as they are."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for member in old:
            data = change(member.name, old.extractfile(member).read())  # type: ignore[union-attr]
            member.size = len(data)
            new.addfile(member, io.BytesIO(data))
    return target


def test_a_digest_that_does_not_match(daemon: PrivateDaemon, busybox: Built, tmp_path: Path) -> None:
    blob = f"blobs/sha256/{busybox.layers[0][7:]}"
    archive = rewritten(
        busybox.path, tmp_path / "i.tar", lambda name, data: data[:-9] + b"otherwise" if name == blob else data
    )
    refused(daemon, archive, "sha256:")


def _with_layer(tmp_path: Path, data: bytes) -> Path:
    """An image whose one layer, a gzip, has these bytes, and the digests that belong to them."""
    image = write_image(tmp_path / "good.tar", [layer(a=named("a"))], name=IMAGE)
    digest = hashlib.sha256(data).hexdigest()
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [image.diff_ids[0]]}}
    return _written(tmp_path / "i.tar", json.dumps(config).encode(), {digest: data})


def _written(path: Path, config: bytes, layers: Mapping[str, bytes]) -> Path:
    def descriptor(kind: str, digest: str, size: int) -> dict[str, Any]:
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": size}

    config_digest = hashlib.sha256(config).hexdigest()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("config.v1+json", config_digest, len(config)),
            "layers": [descriptor("layer.v1.tar+gzip", digest, len(data)) for digest, data in layers.items()],
        }
    ).encode()
    digest = hashlib.sha256(manifest).hexdigest()
    target = descriptor("manifest.v1+json", digest, len(manifest))
    target["annotations"] = {"io.containerd.image.name": IMAGE}
    files = {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [target]}).encode(),
        f"blobs/sha256/{digest}": manifest,
        f"blobs/sha256/{config_digest}": config,
        **{f"blobs/sha256/{digest}": data for digest, data in layers.items()},
    }
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def _gzip() -> bytes:
    import gzip

    return gzip.compress(layer(a=named("a")), mtime=0)


@pytest.mark.parametrize("how", ["truncated", "lying"])
def test_a_gzip_that_is_not_what_it_says(daemon: PrivateDaemon, tmp_path: Path, how: str) -> None:
    good = _gzip()
    data = good[: len(good) // 2] if how == "truncated" else good[:-8] + b"\0\0\0\0" + good[-4:]
    done = daemon.imod("images", "import", str(_with_layer(tmp_path, data)))
    assert done.returncode == 125
    assert "layer" in done.stderr or "gzip" in done.stderr, done.stderr
    settled(daemon, client=True)


def test_a_config_that_is_not_json(daemon: PrivateDaemon, tmp_path: Path) -> None:
    data = _gzip()
    archive = _written(tmp_path / "i.tar", b"not json", {hashlib.sha256(data).hexdigest(): data})
    refused(daemon, archive, "JSON")


def test_a_missing_command_and_a_taken_name(busybox_daemon: PrivateDaemon) -> None:
    daemon = busybox_daemon
    done = daemon.imod("run", "--name", "c", "busybox", "/no/such/command")
    assert done.returncode == 127
    assert "/no/such/command" in done.stderr
    assert daemon.imod("ps", "-aq", check=True).stdout == ""
    daemon.imod("create", "--name", "c", "busybox", check=True)
    taken = daemon.imod("run", "--name", "c", "busybox", "true")
    assert taken.returncode == 125
    assert "the name c is taken" in taken.stderr
    daemon.imod("rm", "c", check=True)
    settled(daemon)


def test_a_second_daemon_on_the_same_root(daemon: PrivateDaemon, tmp_path: Path) -> None:
    command = [str(BIN / "intermodald"), "--root", str(daemon.root), "--state", str(tmp_path / "state")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert f"pid {daemon.pid}" in done.stderr
    assert str(daemon.root) in done.stderr
    assert daemon.imod("ps").returncode == 0


def test_the_spawner_killed(busybox_daemon: PrivateDaemon) -> None:
    daemon = busybox_daemon
    daemon.imod("run", "-d", "--name", "c", "busybox", "sleep", "600", check=True)
    for _ in range(3):
        children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
        threads = [path.read_text().split() for path in Path(f"/proc/{daemon.pid}/task").glob("*/children")]
        for pid in {*children, *(pid for pids in threads for pid in pids)}:
            os.kill(int(pid), signal.SIGKILL)
        deadline = time.monotonic() + 20
        while daemon.imod("run", "--rm", "busybox", "echo", "again").stdout != "again\n":
            assert time.monotonic() < deadline, daemon.tail()
    assert daemon.imod("exec", "c", "echo", "lives", check=True).stdout == "lives\n"
    daemon.imod("rm", "-f", "c", check=True)


@pytest.fixture
def small(busybox: Built) -> Iterator[PrivateDaemon]:
    """A daemon whose root is a file system of 12 MB, with busybox imported."""
    daemon = PrivateDaemon(start=False)
    daemon.root.mkdir(parents=True)
    mount("none", str(daemon.root), "tmpfs", 0, "size=12m")
    try:
        with daemon:
            daemon.start()
            daemon.imod("images", "import", str(busybox.path), check=True)
            yield daemon
            daemon.end()
            umount(str(daemon.root), MNT_DETACH)
    finally:
        if os.path.ismount(daemon.root):
            umount(str(daemon.root), MNT_DETACH)


def test_a_full_disk(small: PrivateDaemon, tmp_path: Path) -> None:
    filler = fill(small.root)
    image = write_image(tmp_path / "i.tar", [layer(a=lambda info: os.urandom(200_000))], name=IMAGE)
    done = small.imod("images", "import", str(image.path))
    assert done.returncode == 125
    assert "space" in done.stderr.lower(), done.stderr
    run = small.imod("run", "--rm", "busybox", "true")
    assert run.returncode != 0
    assert "space" in run.stderr.lower() or "full" in run.stderr.lower(), run.stderr
    assert small.imod("images", "ls", "-q").returncode == 0, "it serves on"
    filler.unlink()
    assert small.imod("run", "--rm", "busybox", "echo", "again", check=True).stdout == "again\n"
    small.imod("images", "import", str(image.path), check=True)


def test_content_written_with_a_lie(daemon: PrivateDaemon) -> None:
    metadata = (("containerd-namespace", daemon.namespace),)
    with grpc.insecure_channel(f"unix:{daemon.address}") as channel:
        write = channel.stream_stream(
            "/containerd.services.content.v1.Content/Write",
            content_pb2.WriteContentRequest.SerializeToString,
            content_pb2.WriteContentResponse.FromString,
        )
        digest = f"sha256:{hashlib.sha256(b'truth').hexdigest()}"
        for data, total in ((b"wrong", 5), (b"truth", 6)):
            request = content_pb2.WriteContentRequest(
                action=content_pb2.COMMIT, ref=f"r{total}", total=total, expected=digest, data=data
            )
            with pytest.raises(grpc.RpcError) as caught:
                list(write(iter([request]), metadata=metadata, timeout=10))
            assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert daemon.ctr("content", "ls", "-q", check=True).stdout == ""


@pytest.mark.slow
def test_a_thousand_children_under_call_load(busybox_daemon: PrivateDaemon) -> None:
    """gRPC calls from threads all the while; every exec starts two children, and nothing hangs."""
    daemon = busybox_daemon
    daemon.imod("run", "-d", "--name", "c", "busybox", "sleep", "6000", check=True)
    stop = threading.Event()
    calls = [0] * 4

    def load(number: int) -> None:
        with grpc.insecure_channel(f"unix:{daemon.address}") as channel:
            version = channel.unary_unary(
                "/containerd.services.version.v1.Version/Version",
                lambda _: b"",
                version_pb2.VersionResponse.FromString,
            )
            while not stop.is_set():
                version(None, timeout=20)
                calls[number] += 1

    threads = [threading.Thread(target=load, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        script = 'for i in $(seq 125); do "$@" || exit 1; done'
        words = daemon.imod_command("exec", "c", "true")
        loops = [subprocess.Popen(["sh", "-c", script, "sh", *words], stderr=sys.stderr) for _ in range(4)]
        assert [loop.wait(300) for loop in loops] == [0] * 4
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert min(calls) > 100
    daemon.imod("rm", "-f", "c", check=True)
    settled(daemon)
