"""What is collected and what stays. What takes `api` holds for a stock containerd, too."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from intermodal_api.containerd.services import content_pb2, images_pb2, leases_pb2, snapshots_pb2
from intermodal_api.containerd.types import descriptor_pb2

from tests.harness.api import Api
from tests.harness.daemon import PrivateDaemon
from tests.harness.images import Built, Entry, layer_tar, write_image
from tests.harness.waiting import until
from tests.harness.world import records, settled

REF = "containerd.io/gc.ref."
BACK = "containerd.io/gc.bref."
EXPIRE = "containerd.io/gc.expire"
#: Nothing runs by itself but what a test asks for.
QUIET = "[managers.gc]\ndelay = 3600\ninterval = 3600\n"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def put(api: Api, data: bytes, **labels: str) -> str:
    """A blob under the api's lease, if it has one."""
    commit = content_pb2.WriteContentRequest(action=content_pb2.COMMIT, ref=digest_of(data), data=data, labels=labels)
    api.send(content_pb2, "Write", [commit])
    return digest_of(data)


def label(api: Api, digest: str, **labels: str) -> None:
    info = content_pb2.Info(digest=digest, labels=labels)
    api.call(content_pb2, "Update", info=info)


def blobs(api: Api) -> set[str]:
    return {each.digest for page in api.call(content_pb2, "List") for each in page.info}


def snapshots(api: Api) -> set[str]:
    return {each.name for page in api.call(snapshots_pb2, "List", snapshotter="overlayfs") for each in page.info}


def image(api: Api, name: str, digest: str, **labels: str) -> None:
    target = descriptor_pb2.Descriptor(media_type="x/y", digest=digest, size=1)
    api.call(images_pb2, "Create", image=images_pb2.Image(name=name, target=target, labels=labels))


def collect(api: Api) -> None:
    """Ends the lease that a test works under, and all that only it protected."""
    plain = Api(api.address, api.namespace)
    with plain:
        plain.call(leases_pb2, "Delete", id=api.lease, sync=True)


def lease(api: Api, id: str, **labels: str) -> Api:
    api.call(leases_pb2, "Create", id=id, labels=labels)
    return Api(api.address, api.namespace, id)


def at(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@pytest.fixture(scope="module")
def ours() -> Iterator[PrivateDaemon]:
    with PrivateDaemon(QUIET) as daemon:
        yield daemon


# What protects what.


def test_labels_of_blobs(kept: Api) -> None:
    """An image keeps its target; a target what its labels name, and what they name; the root label keeps as well."""
    layer, config, other, loose = (put(kept, name) for name in (b"layer", b"config", b"other", b"loose"))
    rooted = put(kept, b"rooted", **{"containerd.io/gc.root": "yes"})
    below = put(kept, b"below")
    label(kept, config, **{f"{REF}content": below})
    manifest = put(
        kept, b"manifest", **{f"{REF}content.l.0": layer, f"{REF}content.config": config, f"{REF}contents": other}
    )
    image(kept, "i", manifest)
    collect(kept)
    assert blobs(kept) == {layer, config, below, manifest, rooted}
    assert loose not in blobs(kept)
    kept.lease = ""
    kept.call(images_pb2, "Delete", name="i", sync=True)
    assert blobs(kept) == {rooted}
    kept.call(content_pb2, "Delete", digest=rooted)


def test_snapshots(kept: Api) -> None:
    """A blob's label keeps a snapshot with its parents; a container its own; nobody keeps the rest."""
    for name, parent in (("p1", ""), ("p2", "p1"), ("q1", ""), ("q2", "q1")):
        kept.call(snapshots_pb2, "Prepare", snapshotter="overlayfs", key=f"{name}-x", parent=parent)
        kept.call(snapshots_pb2, "Commit", snapshotter="overlayfs", name=name, key=f"{name}-x")
    kept.call(snapshots_pb2, "Prepare", snapshotter="overlayfs", key="c", parent="p2")
    kept.call(snapshots_pb2, "Prepare", snapshotter="overlayfs", key="loose", parent="q2")
    config = put(kept, b"config", **{f"{REF}snapshot.overlayfs/0": "p2", "containerd.io/gc.root": "yes"})
    collect(kept)
    assert snapshots(kept) == {"p1", "p2"}
    kept.lease = ""
    kept.call(content_pb2, "Delete", digest=config)
    collect(lease(kept, "l"))
    assert snapshots(kept) == set()


def test_a_flat_lease(kept: Api) -> None:
    """It keeps what it names, a snapshot's parents with it, and follows no label."""
    layer = put(kept, b"layer")
    manifest = put(kept, b"manifest", **{f"{REF}content.0": layer})
    for name, parent in (("p", ""), ("s", "p")):
        kept.call(snapshots_pb2, "Prepare", snapshotter="overlayfs", key=f"{name}-x", parent=parent)
        kept.call(snapshots_pb2, "Commit", snapshotter="overlayfs", name=name, key=f"{name}-x")
    lease(kept, "flat", **{"containerd.io/gc.flat": at(0)})
    for kind, id in (("content", manifest), ("snapshots/overlayfs", "s")):
        kept.call(leases_pb2, "AddResource", id="flat", resource=leases_pb2.Resource(id=id, type=kind))
    collect(kept)
    assert blobs(kept) == {manifest}
    assert snapshots(kept) == {"p", "s"}
    kept.lease = "flat"
    collect(kept)
    assert (blobs(kept), snapshots(kept)) == (set(), set())


def test_an_expired_lease(kept: Api) -> None:
    with lease(kept, "past", **{EXPIRE: at(1)}) as past, lease(kept, "future", **{EXPIRE: at(3600)}) as future:
        put(past, b"past")
        stays = put(future, b"future")
        time.sleep(1.1)  # what ends is time
    collect(kept)
    assert blobs(kept) == {stays}
    kept.lease = ""
    assert [each.id for each in kept.call(leases_pb2, "List").leases] == ["future"]
    kept.lease = "future"
    collect(kept)


def test_namespaces_are_collected_apart(kept: Api) -> None:
    """A blob that another namespace protects stays there, and there only."""
    digest = put(kept, b"shared")
    with Api(kept.address, f"{kept.namespace}-b") as other:
        with lease(other, "l") as leased:
            put(leased, b"shared")
        collect(kept)
        assert blobs(kept) == set()
        assert blobs(other) == {digest}
        other.lease = "l"
        collect(other)
        assert blobs(other) == set()


def test_back_references(our_api: Api) -> None:
    """What carries one stays as long as what it names, and only so long."""
    our_api.lease = our_api.call(leases_pb2, "Create", id="work").lease.id
    above = put(our_api, b"above")
    image(our_api, "i", above)
    with_content = put(our_api, b"1", **{f"{BACK}content": above})
    with_image = put(our_api, b"2", **{f"{BACK}image.x": "i"})
    with_nobody = put(our_api, b"3", **{f"{BACK}container": "nobody"})
    for key, labels in (("s", {f"{BACK}content": above}), ("t", {f"{BACK}snapshot.overlayfs": "s"})):
        our_api.call(snapshots_pb2, "Prepare", snapshotter="overlayfs", key=key, labels=labels)
    collect(our_api)
    assert blobs(our_api) == {above, with_content, with_image}, with_nobody
    assert snapshots(our_api) == {"s", "t"}
    our_api.lease = ""
    our_api.call(images_pb2, "Delete", name="i", sync=True)
    assert (blobs(our_api), snapshots(our_api)) == (set(), set())


def test_an_image_that_expires(our_api: Api) -> None:
    our_api.lease = our_api.call(leases_pb2, "Create", id="work").lease.id
    old, new = put(our_api, b"old"), put(our_api, b"new")
    our_api.lease = ""
    image(our_api, "old", old, **{EXPIRE: at(-1)})
    image(our_api, "new", new, **{EXPIRE: at(3600)})
    our_api.lease = "work"
    collect(our_api)
    our_api.lease = ""
    assert [each.name for each in our_api.call(images_pb2, "List").images] == ["new"]
    assert blobs(our_api) == {new}
    our_api.call(images_pb2, "Delete", name="new", sync=True)


# When.


def test_a_lease_ends_at_its_time_though_nobody_asks() -> None:
    with PrivateDaemon("[managers.gc]\ndelay = 0.1\ngrace = 0\n") as daemon, Api(daemon.address, "n") as api:
        with lease(api, "short", **{EXPIRE: at(2)}) as short:
            put(short, b"short")
        disk = daemon.root / "content/local/blobs/sha256"
        assert len(os.listdir(disk)) == 1
        until(lambda: not os.listdir(disk), 20)
        assert records(daemon, "leases") == []


def test_what_a_removal_leaves_goes_soon_and_what_is_young_later(busybox: Built) -> None:
    with (
        PrivateDaemon("[managers.gc]\ndelay = 0.1\ngrace = 2\n") as daemon,
        Api(daemon.address, daemon.namespace) as api,
    ):
        daemon.imod("images", "import", str(busybox.path), check=True)
        young = put(api, b"young")
        daemon.imod("images", "rm", busybox.name, check=True)
        assert young in blobs(api)
        until(lambda: blobs(api) == set(), 20)
        until(lambda: not os.listdir(daemon.root / "content/local/blobs/sha256"), 20)
        until(lambda: not os.listdir(daemon.root / "snapshotters/overlayfs/snapshots"), 20)
        settled(daemon)


#: Bytes that an import waits for; it reads a mebibyte at a time.
REST = 1_500_000


def two_layers(path: Path, name: str) -> bytes:
    """An archive whose last layer is larger than REST."""
    layers = [layer_tar([Entry(each, os.urandom(2_500_000))]) for each in ("a", "b")]
    return write_image(path, layers, name=name).path.read_bytes()


@contextmanager
def importing(daemon: PrivateDaemon, data: bytes) -> Iterator[subprocess.Popen[bytes]]:
    """An import that has got these bytes, and waits for more."""
    words = daemon.imod_command("images", "import", "-")
    with subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as feeding:
        assert feeding.stdin is not None
        feeding.stdin.write(data)
        feeding.stdin.flush()
        until(lambda: len(os.listdir(daemon.root / "content/local/blobs/sha256")) >= 3, 20)
        yield feeding


def test_a_killed_import_leaves_nothing_for_long(tmp_path: Path) -> None:
    """Whole blobs of it have no image: the next daemon collects them, and does not wait for somebody to ask."""
    data = two_layers(tmp_path / "i.tar", "docker.io/library/i:1")
    with PrivateDaemon("[managers.gc]\ndelay = 0.1\ngrace = 0.5\n") as daemon:
        with importing(daemon, data[:-REST]):
            daemon.kill9()
        daemon.start()
        until(lambda: not os.listdir(daemon.root / "content/local/blobs/sha256"), 20)
        settled(daemon)


def test_a_failed_import_takes_nothing_from_another(tmp_path: Path, daemon: PrivateDaemon) -> None:
    """Two take the same image; one is cut off while the other waits for the rest, having found the first one's blobs."""
    data = two_layers(tmp_path / "i.tar", "docker.io/library/i:1")
    with importing(daemon, data[:-REST]) as cut, importing(daemon, data[:-REST]) as whole:
        assert cut.stdin is not None
        cut.stdin.close()
        assert cut.wait(20) == 125
        _, words = whole.communicate(data[-REST:], timeout=20)
        assert whole.returncode == 0, words
    check = daemon.ctr("images", "check", check=True).stdout
    assert "complete (3/3)" in check, check
    assert check.split()[-1] == "true", check
    settled(daemon)


def test_a_failed_import_leaves_nothing(tmp_path: Path, daemon: PrivateDaemon) -> None:
    with importing(daemon, two_layers(tmp_path / "i.tar", "docker.io/library/i:1")[:-REST]) as cut:
        assert cut.stdin is not None
        cut.stdin.close()
        assert cut.wait(20) == 125
    assert os.listdir(daemon.root / "content/local/blobs/sha256") == []
    settled(daemon)


# What people see.


def test_dry_run_and_explanations(busybox_daemon: PrivateDaemon) -> None:
    daemon = busybox_daemon
    daemon.imod("create", "--name", "c", "--net", "none", "busybox", check=True)
    with Api(daemon.address, daemon.namespace) as api:
        manifest = put(api, b"unloved", **{f"{REF}content.0": put(api, b"below")})
    planned = json.loads(daemon.imod("gc", "--dry-run", "-o", "json", check=True).stdout)
    assert [(each["type"], each["size"]) for each in planned] == [("content", 7), ("content", 5)]
    assert [each["why"] for each in planned] == [
        "nothing refers to it",
        f"only content {manifest} refers to it, which goes, too",
    ]
    told = daemon.imod("gc", "explain", manifest[:20], check=True).stdout
    assert "goes at the next collection: nothing refers to it" in told
    layer = json.loads(daemon.imod("images", "ls", "-o", "json", check=True).stdout)[0]["target"]["digest"]
    chain = daemon.imod("gc", "explain", layer[7:20], check=True).stdout.splitlines()
    assert chain[1].strip() == "images docker.io/library/busybox:latest: an image"
    assert chain[2].strip() == f"content {layer}: its target"
    snapshot = json.loads(daemon.imod("inspect", "c", check=True).stdout)[0]["snapshot_key"]
    told = daemon.imod("gc", "explain", snapshot, check=True).stdout
    assert "containers c: a container" in told
    done = daemon.imod("gc", check=True)
    assert done.stderr.startswith("2 objects went, 12 B of content;"), done.stderr
    elsewhere = subprocess.run(
        daemon.imod_command("-n", "void", "gc", "explain", "c"), capture_output=True, text=True, timeout=20, check=False
    )
    assert f"it is in the namespace {daemon.namespace}" in elsewhere.stderr
    missing = daemon.imod("gc", "explain", manifest)
    assert missing.returncode == 125
    assert "there is no blob" in missing.stderr
    daemon.imod("rm", "c", check=True)
    settled(daemon)


def test_where_the_bytes_are(busybox_daemon: PrivateDaemon) -> None:
    daemon = busybox_daemon
    with Api(daemon.address, "another") as api:
        put(api, bytes(3_000_000))
    uses = json.loads(daemon.imod("du", "-o", "json", check=True).stdout)
    disk = {path.name: path.stat().st_size for path in (daemon.root / "content/local/blobs/sha256").iterdir()}
    assert {use["key"][7:]: use["size"] for use in uses if use["type"] == "content"} == disk
    loose = next(use for use in uses if use["size"] == 3_000_000)
    assert (loose["namespaces"], loose["kept_by"]) == (["another"], "")
    layer = next(use for use in uses if use["type"] == "snapshots/overlayfs")
    assert layer["kept_by"] == "image docker.io/library/busybox:latest"
    assert layer["size"] > 500_000
    rows = daemon.imod("du", check=True).stdout.splitlines()
    assert rows[0].split() == ["TYPE", "OBJECTS", "SIZE", "RECLAIMABLE"]
    assert rows[1].split()[0] == "content"
    assert rows[1].endswith("3.0 MB")


# While others work.


@pytest.mark.slow
def test_imports_and_runs_while_collections_run(busybox: Built, tmp_path: Path) -> None:
    """Every image that a command made is whole, though all is collected again and again."""
    with PrivateDaemon("[managers.gc]\ngrace = 0\ndelay = 0\n") as daemon:
        daemon.imod("images", "import", str(busybox.path), check=True)
        stop = threading.Event()
        failures: list[str] = []

        def collecting() -> None:
            while not stop.is_set():
                done = daemon.imod("gc")
                if done.returncode:
                    failures.append(done.stderr)

        def working(number: int) -> None:
            for turn in range(8):
                name = f"docker.io/library/i{number}:{turn % 2}"
                built = write_image(
                    tmp_path / f"{number}-{turn}.tar", [layer_tar([Entry("a", f"{number} {turn}".encode())])], name=name
                )
                steps = [("images", "import", str(built.path)), ("run", "--rm", "--net", "none", "busybox", "true")]
                steps += [("images", "rm", name)] if turn % 2 else []
                done = [daemon.imod(*words) for words in steps]
                failures.extend(f"{each.args}: {each.stderr}" for each in done if each.returncode)

        threads = [threading.Thread(target=working, args=(number,)) for number in range(3)]
        collector = threading.Thread(target=collecting)
        for thread in (*threads, collector):
            thread.start()
        for thread in threads:
            thread.join(180)
        stop.set()
        collector.join(60)
        assert failures == []
        daemon.imod("gc", check=True)
        left = {each["name"] for each in json.loads(daemon.imod("images", "ls", "-o", "json", check=True).stdout)}
        assert left == {busybox.name, *(f"docker.io/library/i{number}:0" for number in range(3))}
        for name in left:
            check = daemon.ctr("images", "check", f"name=={name}", check=True).stdout
            assert "complete" in check
            assert check.split()[-1] == "true", check
        settled(daemon)
