"""Pulls from a registry that means harm, and onto a disk that is full: a sentence, nothing left, and the next one works."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from intermodal_oci import platforms

from tests.harness.daemon import PrivateDaemon
from tests.harness.disk import fill, small_disk
from tests.harness.faults import Fault, Proxy, Request, proxy
from tests.harness.images import Entry, busybox_layer, layer_tar, write_image
from tests.harness.world import settled

OCI = "application/vnd.oci.image."
MANIFEST, INDEX, CONFIG, LAYER = (
    f"{OCI}manifest.v1+json",
    f"{OCI}index.v1+json",
    f"{OCI}config.v1+json",
    f"{OCI}layer.v1.tar",
)
HOST = platforms.host()


class Made:
    """What a registry would serve: documents and blobs by digest; `top` is what the tag points at."""

    def __init__(self) -> None:
        self.blobs: dict[str, tuple[str, bytes]] = {}
        self.top = ""

    def add(self, media_type: str, content: Any, **changes: Any) -> dict[str, Any]:
        """A blob, and its descriptor with some fields changed."""
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.blobs[digest] = (media_type, data)
        self.top = digest
        return {"mediaType": media_type, "digest": digest, "size": len(data), **changes}

    def manifest(
        self, layers: list[dict[str, Any]], diff_ids: list[str] | None = None, **changes: Any
    ) -> dict[str, Any]:
        """A manifest of these layers, and its config."""
        if diff_ids is None:
            diff_ids = [f"sha256:{hashlib.sha256(self.blobs[layer['digest']][1]).hexdigest()}" for layer in layers]
        rootfs = {"type": "layers", "diff_ids": diff_ids}
        config = self.add(CONFIG, {"os": HOST.os, "architecture": HOST.architecture, "rootfs": rootfs})
        return self.add(
            MANIFEST, {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers, **changes}
        )

    def serve(self, request: Request) -> Fault:
        """As a rule of the proxy."""
        reference = request.path.rpartition("/")[2].partition("?")[0]
        media_type, data = self.blobs.get(self.top if reference == "1" else reference, ("", b""))
        if not media_type:
            return Fault(404)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        return Fault(200, {"Content-Type": media_type, "Docker-Content-Digest": digest}, data)


@pytest.fixture(scope="module")
def shared() -> Iterator[PrivateDaemon]:
    with PrivateDaemon("[image_sources.registry]\nattempts = 1") as daemon:
        yield daemon


@pytest.fixture
def daemon(shared: PrivateDaemon) -> Iterator[PrivateDaemon]:
    yield shared
    settled(shared)


@pytest.fixture
def server() -> Iterator[Proxy]:
    with proxy("127.0.0.1:1") as server:
        yield server


def refused(daemon: PrivateDaemon, server: Proxy, made: Made, *said: str) -> None:
    """A pull fails in one sentence, and leaves neither blobs nor snapshots."""
    server.rule = made.serve
    space = f"n{secrets.token_hex(4)}"
    done = daemon.imod("-n", space, "images", "pull", f"{server.address}/bad:1")
    assert (done.returncode, done.stderr.count("\n")) == (125, 1), done.stderr
    assert any(each in done.stderr for each in said), done.stderr
    for words in (("images", "ls", "-q"), ("content", "ls", "-q"), ("leases", "ls", "-q")):
        assert daemon.ctr("--namespace", space, *words, check=True).stdout == ""


def good_layer(made: Made, **changes: Any) -> dict[str, Any]:
    return made.add(LAYER, layer_tar([Entry("file", b"content")]), **changes)


def nested(made: Made, depth: int) -> None:
    """Indexes within indexes, each of one entry."""
    inner = made.manifest([good_layer(made)])
    for _ in range(depth):
        inner = made.add(INDEX, {"schemaVersion": 2, "mediaType": INDEX, "manifests": [inner]})


def looped(made: Made) -> None:
    """An index that lists what does not exist under a digest that it would have to know beforehand."""
    fake = {"mediaType": INDEX, "digest": f"sha256:{'1' * 64}", "size": 10}
    made.add(INDEX, {"schemaVersion": 2, "mediaType": INDEX, "manifests": [fake]})


BAD: dict[str, tuple[Callable[[Made], Any], tuple[str, ...]]] = {
    "a manifest of 100 MB": (
        lambda made: made.add(MANIFEST, b"[" + b" " * 100_000_000 + b"]"),
        ("too many for a document",),
    ),
    "indexes too deep": (lambda made: nested(made, 12), ("indexes deep",)),
    "an index that ends nowhere": (looped, ("404",)),
    "an index for others": (
        lambda made: made.add(
            INDEX,
            {
                "schemaVersion": 2,
                "manifests": [
                    made.manifest([good_layer(made)]) | {"platform": {"os": "plan9", "architecture": "mips"}}
                ],
            },
        ),
        ("no manifest for",),
    ),
    "another size": (lambda made: made.manifest([good_layer(made, size=5)]), ("bytes there, and the descriptor",)),
    "a negative size": (lambda made: made.manifest([good_layer(made, size=-5)]), ("a size of -5",)),
    "a size beyond all": (lambda made: made.manifest([good_layer(made, size=1 << 62)]), ("bytes there", "exhausted")),
    "a digest that is a path": (
        lambda made: made.manifest([good_layer(made, digest="sha256:../../../etc/passwd")], ["sha256:" + "0" * 64]),
        ("Digest 'sha256:../../../etc/passwd'",),
    ),
    "another diff id": (
        lambda made: made.manifest([good_layer(made)], ["sha256:" + "0" * 64]),
        ("and the image's config says",),
    ),
    "too few diff ids": (lambda made: made.manifest([good_layer(made)], []), ("0 diff ids for 1 layers",)),
    "a layer of an unknown type": (
        lambda made: made.manifest([good_layer(made, mediaType="application/x-what")]),
        ("no differ takes",),
    ),
    "gzip by type alone": (
        lambda made: made.manifest([good_layer(made, mediaType=f"{LAYER}+gzip")]),
        ("says gzip, but",),
    ),
    "no document": (lambda made: made.add(MANIFEST, b"\xff\xfe"), ("is not valid JSON",)),
    "manifest and index in one": (
        lambda made: made.manifest([good_layer(made)], manifests=[]),
        ("it has the field 'manifests'",),
    ),
    "schema version 1": (
        lambda made: made.add("application/vnd.docker.distribution.manifest.v1+prettyjws", {"schemaVersion": 1}),
        ("schema version 1",),
    ),
    "a layer cut off": (
        lambda made: made.manifest(
            [made.add(f"{LAYER}+gzip", gzip.compress(layer_tar([Entry("file", b"x" * 5000)]))[:-20])],
            ["sha256:" + "0" * 64],
        ),
        ("truncated",),
    ),
    "a bomb": (
        lambda made: made.manifest(
            [made.add(f"{LAYER}+gzip", gzip.compress(layer_tar([Entry("zeros", bytes(1 << 28))]), 9))],
            ["sha256:" + "0" * 64],
        ),
        ("the limit of this differ", "and the image's config says"),
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_images(daemon: PrivateDaemon, server: Proxy, what: str) -> None:
    make, said = BAD[what]
    made = Made()
    make(made)
    refused(daemon, server, made, *said)


@pytest.mark.parametrize(
    "name", ["{}/x:" + "t" * 10_000, "{}/" + "n" * 10_000 + ":1", "{}/x@sha256:" + "0" * 63, "{}/../x:1", "{}/x:\udcff"]
)
def test_bad_names(daemon: PrivateDaemon, server: Proxy, name: str) -> None:
    done = daemon.imod("images", "pull", name.format(server.address))
    assert done.returncode == 125
    assert done.stderr.count("\n") == 1
    assert len(done.stderr) < 1000
    assert server.requests == []


def test_names_that_are_not_utf8(daemon: PrivateDaemon, server: Proxy) -> None:
    """They are content: unpacked as they are, and the same after a commit."""
    made = Made()
    layer = made.add(LAYER, layer_tar([Entry("d\udcff\udcfe/f", b"x")]))
    base = made.add(LAYER, busybox_layer())
    made.manifest([base, layer])
    server.rule = made.serve
    name = f"{server.address}/names:1"
    daemon.imod("images", "pull", name, check=True)
    look = "cat /d[!e]*/f; echo /d[!e]* | od -An -tx1 | tr -d ' \\n'"
    shown = daemon.imod("run", "--rm", name, "sh", "-c", look, check=True).stdout
    assert shown.startswith("x")
    assert b"d\xff\xfe".hex() in shown
    daemon.imod("run", "--name", "named", name, "sh", "-c", "mkdir /kept; mv /d[!e]* /kept/", check=True)
    daemon.imod("commit", "named", "named:1", check=True)
    assert daemon.imod("run", "--rm", "named:1", "sh", "-c", "cat /kept/*/f", check=True).stdout == "x"
    daemon.imod("rm", "named", check=True)
    daemon.imod("images", "rm", name, "named:1", check=True)


def test_a_disk_that_is_full(tmp_path: Path, server: Proxy) -> None:
    """In the middle of a pull, an import, a conversion, a commit: said so, and once there is room it works."""
    noise = secrets.token_bytes(3_000_000)
    built = write_image(tmp_path / "image.tar", [busybox_layer(), layer_tar([Entry("noise", noise)])])
    made = Made()
    made.manifest([made.add(LAYER, busybox_layer()), made.add(LAYER, layer_tar([Entry("noise", noise)]))])
    server.rule = made.serve
    with (
        tempfile.TemporaryDirectory(prefix="d-") as short,  # for the names of sockets
        small_disk(Path(short) / "small", 48 << 20) as small,
        PrivateDaemon(directory=small) as daemon,
    ):
        name = f"{server.address}/image:1"
        daemon.imod("images", "import", str(built.path), check=True)
        daemon.imod("run", "--name", "changed", "busybox", "sh", "-c", "cp /noise /more", check=True)
        for words in (
            ("images", "pull", name),
            ("images", "convert", "--to", "none", "busybox", "zstd:1"),
            ("commit", "changed", "committed:1"),
        ):
            filler = fill(small)
            os.truncate(filler, filler.stat().st_size - 1_000_000)
            done = daemon.imod(*words)
            assert done.returncode == 125, words
            assert done.stderr.count("\n") == 1, done.stderr
            assert "No space left on device" in done.stderr, done.stderr
            filler.unlink()
            settled(daemon)
        daemon.imod("images", "pull", name, check=True)
        daemon.imod("commit", "changed", "committed:1", check=True)
        daemon.imod("rm", "changed", check=True)
