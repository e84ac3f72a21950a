"""Images that are wrong in themselves, given to imod and to ctr, and one that is poisoned."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import secrets
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.harness.daemon import PrivateDaemon
from tests.harness.images import Entry, busybox_layer, layer_tar
from tests.harness.world import settled

BAD = "docker.io/library/bad:1"
OCI = "application/vnd.oci.image."
INVALID, FAILED = "invalid argument", "failed precondition"


@pytest.fixture(scope="module")
def shared() -> Iterator[PrivateDaemon]:
    """A daemon that all that is bad is given to, one after the other."""
    with PrivateDaemon() as daemon:
        yield daemon


@pytest.fixture
def daemon(shared: PrivateDaemon) -> Iterator[PrivateDaemon]:
    """After the test record and world agree; each has a namespace of its own."""
    yield shared
    settled(shared)


@pytest.fixture
def space() -> tuple[str, str]:
    """The words that choose a namespace of the test's own, for ctr and for imod."""
    return "--namespace", f"n{secrets.token_hex(4)}"


def by_imod(daemon: PrivateDaemon, space: tuple[str, str], archive: Path, said: str) -> None:
    """imod refuses it in one sentence, and nothing of it is there."""
    done = daemon.imod(*space, "images", "import", str(archive))
    assert (done.returncode, done.stderr.count("\n")) == (125, 1), done.stderr
    assert said in done.stderr
    for words in (("images", "ls", "-q"), ("content", "ls", "-q"), ("leases", "ls", "-q")):
        assert daemon.ctr(*space, *words, check=True).stdout == ""
    assert "sha256" not in daemon.ctr(*space, "snapshots", "ls", check=True).stdout


def by_ctr(daemon: PrivateDaemon, space: tuple[str, str], archive: Path, *said: str) -> None:
    """ctr imports, and fails where it reads it or has it unpacked; that leaves no snapshot."""
    done = daemon.ctr(*space, "images", "import", str(archive))
    assert done.returncode != 0
    for words in said:
        assert words in done.stderr, done.stderr
    assert "sha256" not in daemon.ctr(*space, "snapshots", "ls", check=True).stdout


def special(name: str, kind: bytes, link: str = "") -> bytes:
    """A layer with one entry that is no plain file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.devmajor, info.devminor = kind, link, 1, 3
        tar.addfile(info)
    return buffer.getvalue()


def image(
    path: Path,
    layers: Sequence[bytes],
    *,
    diff_ids: Sequence[str] | None = None,
    media_type: str = f"{OCI}layer.v1.tar",
    config: bytes | None = None,
    change: Callable[[dict[str, Any]], None] = lambda manifest: None,
    name: str = BAD,
) -> Path:
    """Write an OCI layout in which anything may be wrong: layers as they are, a config, a changed manifest."""
    diff_ids = diff_ids if diff_ids is not None else [digest(layer) for layer in layers]
    if config is None:
        fields = {"architecture": "amd64", "os": "linux", "config": {"Cmd": ["sh"]}}
        config = json.dumps({**fields, "rootfs": {"type": "layers", "diff_ids": list(diff_ids)}}).encode()
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}manifest.v1+json",
        "config": described(f"{OCI}config.v1+json", config),
        "layers": [described(media_type, layer) for layer in layers],
    }
    change(manifest)
    data = json.dumps(manifest).encode()
    target = described(f"{OCI}manifest.v1+json", data) | {"annotations": {"io.containerd.image.name": name}}
    index = json.dumps({"schemaVersion": 2, "mediaType": f"{OCI}index.v1+json", "manifests": [target]}).encode()
    files = {f"blobs/sha256/{digest(blob)[7:]}": blob for blob in (data, config, *layers)}
    files |= {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": index}
    path.write_bytes(layer_tar([Entry(name, blob) for name, blob in files.items()]))
    return path


def described(media_type: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(blob), "size": len(blob)}


def digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


CLIMBING = {
    "up": layer_tar([Entry("../outside", b"x")]),
    "up-from-below": layer_tar([Entry("a"), Entry("a/../../outside", b"x")]),
    "absolute-up": layer_tar([Entry("/../outside", b"x")]),
    "hard-link": special("link", tarfile.LNKTYPE, "../../../../etc/passwd"),
}


@pytest.mark.parametrize("layer", CLIMBING.values(), ids=CLIMBING)
def test_a_layer_that_climbs_out(daemon: PrivateDaemon, space: tuple[str, str], tmp_path: Path, layer: bytes) -> None:
    archive = image(tmp_path / "bad.tar", [layer])
    by_imod(daemon, space, archive, "climbs out")
    by_ctr(daemon, space, archive, "climbs out", INVALID)
    assert not list(daemon.base.rglob("outside"))


LEADING = {
    "absolute": layer_tar([Entry("/inside", b"x")]),
    "symbolic-link": layer_tar([Entry("away", link="/"), Entry("away/inside", b"x")]),
    "symbolic-link-up": layer_tar([Entry("away", link="../../../../.."), Entry("away/inside", b"x")]),
}


@pytest.mark.parametrize("layer", LEADING.values(), ids=LEADING)
def test_what_leads_outward_leads_to_the_root(tmp_path: Path, layer: bytes) -> None:
    archive = image(tmp_path / "bad.tar", [busybox_layer(), layer])
    with PrivateDaemon() as daemon:
        daemon.imod("images", "import", str(archive), check=True)
        assert daemon.imod("run", "--rm", "--net", "none", BAD, "cat", "/inside").stdout == "x"
    assert not Path("/inside").exists()


GOOD = layer_tar([Entry("a", b"hello" * 1000)])
LYING = {
    "truncated": (gzip.compress(GOOD)[:-20], "truncated"),
    "wrong checksum": (gzip.compress(GOOD)[:-8] + bytes(8), "damaged"),
    "no gzip": (b"\x1f\x8b\x08" + bytes(100), "damaged"),
    "no tar": (gzip.compress(b"x" * 2048), "tar"),
}


@pytest.mark.parametrize(("layer", "said"), LYING.values(), ids=LYING)
def test_a_layer_that_cannot_be_read(
    daemon: PrivateDaemon, space: tuple[str, str], tmp_path: Path, layer: bytes, said: str
) -> None:
    archive = image(tmp_path / "bad.tar", [layer], diff_ids=[digest(GOOD)], media_type=f"{OCI}layer.v1.tar+gzip")
    by_imod(daemon, space, archive, said)
    by_ctr(daemon, space, archive, said, INVALID)


def wrong_size(manifest: dict[str, Any]) -> None:
    manifest["layers"][0]["size"] += 1


def missing_layer(manifest: dict[str, Any]) -> None:
    manifest["layers"][0]["digest"] = digest(b"elsewhere")


DOCUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "diff id": ({"diff_ids": [digest(b"other")]}, "unpacks to"),
    "number of diff ids": ({"diff_ids": []}, "0 diff ids for 1 layers"),
    "config that is not JSON": ({"config": b"this is no JSON"}, "JSON"),
    "config of another shape": ({"config": b'{"rootfs": 7}'}, "image config"),
    "size": ({"change": wrong_size}, "bytes"),
    "layer that is not there": ({"change": missing_layer}, "not whole"),
}


@pytest.mark.parametrize(("wrong", "said"), DOCUMENTS.values(), ids=DOCUMENTS)
def test_an_image_that_contradicts_itself(
    daemon: PrivateDaemon, space: tuple[str, str], tmp_path: Path, wrong: dict[str, Any], said: str
) -> None:
    archive = image(tmp_path / "bad.tar", [GOOD], **wrong)
    by_imod(daemon, space, archive, said)
    if said != "bytes":  # ctr takes a manifest's word for sizes
        by_ctr(daemon, space, archive)


def test_a_poisoned_layer_runs_nothing_of_its_own(tmp_path: Path) -> None:
    """Code at places that Python or the C library might look at, in the worker or in what looks users up."""
    marker = f"/poisoned-{os.getpid()}"
    code = f"open({marker!r}, 'w').close()".encode()
    places = {path.strip("/") for path in sys.path if path.startswith(("/usr", sys.prefix))}
    places |= {"usr/lib/python3/dist-packages", "usr/lib/python3.11", "usr/local/lib/python3.11/site-packages"}
    names = ("sitecustomize.py", "encodings/idna.py", "codecs.py", "grp.py", "pwd.py", "tarfile.py", "traceback.py")
    entries = [Entry(f"{place}/{name}", code) for place in sorted(places) for name in names]
    for place in ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib64"):
        entries += [
            Entry(f"{place}/{name}", b"\x7fELF") for name in ("libnss_files.so.2", "libc.so.6", "libgcc_s.so.1")
        ]
    entries += [Entry("etc/nsswitch.conf", b"passwd: files\n"), Entry("etc/passwd", b"who:x:7:8::/:/bin/sh\n")]
    archive = image(tmp_path / "bad.tar", [busybox_layer(), layer_tar(entries)])
    look = f"id -u; ls {marker}"
    with PrivateDaemon() as daemon:
        daemon.imod("images", "import", str(archive), check=True)
        done = daemon.imod("run", "--rm", "--net", "none", "--user", "who", BAD, "sh", "-c", look)
    assert done.stdout == "7\n"
    assert not Path(marker).exists()


def test_many_want_one_name(busybox_daemon: PrivateDaemon) -> None:
    """Of those that ask at once one gets it, the others are told."""
    daemon = busybox_daemon
    command = daemon.imod_command("run", "-d", "--name", "c", "--net", "none", "busybox", "sleep", "1000")
    asking = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(6)]
    said = [(*each.communicate(timeout=60), each.returncode) for each in asking]
    assert sorted(code for _, _, code in said) == [0, 125, 125, 125, 125, 125], said
    for _, stderr, code in said:
        assert code == 0 or b"the name c is taken" in stderr or b"already" in stderr
    assert daemon.imod("exec", "c", "echo", "well", check=True).stdout == "well\n"
    daemon.imod("rm", "-f", "c", check=True)


def test_a_name_that_another_client_has_taken(busybox_daemon: PrivateDaemon) -> None:
    """Of a container that ctr made nothing is touched, nor of a snapshot with that name."""
    daemon = busybox_daemon
    name = "docker.io/library/busybox:latest"
    daemon.ctr("run", "-d", name, "c", "sleep", "1000", check=True)
    refused = daemon.imod("run", "--rm", "--name", "c", "--net", "none", "busybox", "true")
    assert (refused.returncode, "the name c is taken" in refused.stderr) == (125, True)
    assert daemon.ctr("tasks", "exec", "--exec-id", "e", "c", "echo", "well", check=True).stdout == "well\n"
    assert " c " in daemon.ctr("snapshots", "ls", check=True).stdout.replace("\nc ", "\n c ")
    daemon.ctr("tasks", "rm", "-f", "c", check=True)
    daemon.ctr("containers", "rm", "c", check=True)
    daemon.ctr("snapshots", "prepare", "d", check=True)
    assert daemon.imod("run", "--rm", "--name", "d", "--net", "none", "busybox", "echo", "d").stdout == "d\n"
    assert "\nd " in daemon.ctr("snapshots", "ls", check=True).stdout
    daemon.ctr("snapshots", "rm", "d", check=True)
    settled(daemon)
