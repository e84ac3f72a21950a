"""`imod images pull` and `push`, from a real registry and through a faulty one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from intermodal_api.containerd.services import content_pb2, snapshots_pb2
from intermodal_core.contracts.common import Mount
from intermodal_snapshots.mounts import temp_mount

from tests.harness.api import Api
from tests.harness.daemon import PrivateDaemon
from tests.harness.faults import Fault, Proxy, Request, proxy
from tests.harness.images import Built, Entry, busybox_layer, busybox_layout, layer_tar, write_image
from tests.harness.registry import PASSWORD, USER, push_archive, registry
from tests.harness.waiting import until
from tests.harness.world import settled
from tests.plugins.differ.conftest import listing

#: Layers whose meaning depends on what is below: implied parents, a linked parent, whiteouts, an opaque directory.
CHAIN = [
    layer_tar(
        [
            Entry("etc", mode=0o2750, uid=3, gid=4),
            Entry("etc/old", b"old"),
            Entry("usr/lib"),
            Entry("lib", link="usr/lib"),
        ]
    ),
    layer_tar([Entry("etc/new", b"new"), Entry("etc/.wh.old", b""), Entry("opt/a/1", b"1"), Entry("opt/b/2", b"2")]),
    layer_tar(
        [
            Entry("lib/through", b"x"),
            Entry("opt/a/.wh..wh..opq", b""),
            Entry("opt/a/3", b"3"),
            Entry(".wh.nothing", b""),
        ]
    ),
    layer_tar([Entry("opt/a/4", b"4"), Entry(".wh.etc", b""), Entry("etc/again", b"again")]),
]


@dataclass(frozen=True)
class Place:
    """A registry with images: `busybox:1`, `chain:1`, `large:1` (one layer of 6 MB) and `twice:1` (the same layer twice)."""

    address: str
    built: dict[str, Built]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    top = tmp_path_factory.mktemp("registry")
    noise = random.Random(7).randbytes(6_000_000)
    large = layer_tar([Entry("data", noise)])
    built = {
        "busybox": busybox_layout(top / "busybox.tar"),
        "chain": write_image(top / "chain.tar", CHAIN),
        "large": write_image(top / "large.tar", [large], compression="zstd"),
        "twice": write_image(top / "twice.tar", [large, large, CHAIN[0]], compression="none"),
    }
    with registry(top / "served") as served:
        for name, image in built.items():
            push_archive(image.path, f"{served.address}/{name}:1")
        yield Place(served.address, built)


@pytest.fixture(scope="module")
def shared() -> Iterator[PrivateDaemon]:
    with PrivateDaemon(
        "[image_sources.registry]\nattempts = 2\nstall_timeout = 1\n[managers.images]\nranged_from = 2000000"
    ) as daemon:
        yield daemon


@pytest.fixture
def daemon(shared: PrivateDaemon) -> Iterator[PrivateDaemon]:
    """After each test, record and world agree and nothing is kept that no image needs."""
    yield shared
    settled(shared)


@pytest.fixture
def faulty(place: Place) -> Iterator[Proxy]:
    with proxy(place.address) as faulty:
        yield faulty


def pull(daemon: PrivateDaemon, space: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return daemon.imod("-n", space, "images", "pull", *arguments, check=check)


def blobs(daemon: PrivateDaemon, space: str) -> set[str]:
    with Api(daemon.address, space) as api:
        return {info.digest for answer in api.call(content_pb2, "List") for info in answer.info}


def snapshots(daemon: PrivateDaemon, space: str, snapshotter: str = "overlayfs") -> list[tuple[str, str]]:
    with Api(daemon.address, space) as api:
        found = api.call(snapshots_pb2, "List", snapshotter=snapshotter)
        return [(info.name, info.parent) for answer in found for info in answer.info]


def tree(daemon: PrivateDaemon, space: str, snapshotter: str, tmp_path: Path) -> dict[bytes, tuple[object, ...]]:
    """What the top of the one chain of a snapshotter shows."""
    chain = snapshots(daemon, space, snapshotter)
    (top,) = {name for name, _ in chain} - {parent for _, parent in chain}
    with Api(daemon.address, space) as api:
        answer = api.call(snapshots_pb2, "View", snapshotter=snapshotter, key="seen", parent=top)
        mounts = [Mount(mount.type, mount.source, tuple(mount.options), mount.target) for mount in answer.mounts]
        try:
            with temp_mount(mounts, tmp_path) as path:
                return listing(path)
        finally:
            api.call(snapshots_pb2, "Remove", snapshotter=snapshotter, key="seen")


def test_pull_and_run(daemon: PrivateDaemon, place: Place) -> None:
    name = f"{place.address}/busybox:1"
    done = pull(daemon, daemon.namespace, name)
    assert done.stdout == f"{name}\n"
    assert f"{place.built['busybox'].manifest} from http://{place.address}/v2, unpacked for overlayfs" in done.stderr
    assert "MB/s" in done.stderr
    assert "slowest: " in done.stderr
    assert "hello" in daemon.imod("run", "--rm", name, "echo", "hello", check=True).stdout
    again = pull(daemon, daemon.namespace, "-q", name)
    assert (again.stdout, again.stderr) == (f"{name}\n", "")
    assert blobs(daemon, daemon.namespace) == {
        place.built["busybox"].manifest,
        place.built["busybox"].config,
        *place.built["busybox"].layers,
    }


def test_run_pulls_what_is_missing(daemon: PrivateDaemon, place: Place) -> None:
    name = f"{place.address}/busybox:1"
    daemon.imod("images", "rm", name)
    refused = daemon.imod("run", "--rm", "--pull", "never", name, "true")
    assert refused.returncode == 125
    assert "pulling" not in refused.stderr
    assert daemon.imod("run", "--rm", name, "echo", "hello", check=True).stdout == "hello\n"
    gone = daemon.imod("run", "--rm", f"{place.address}/gone:1", "true")
    assert "pulling it failed" in gone.stderr
    assert "404" in gone.stderr


def test_run_pulls_for_the_snapshotter_of_its_runtime(place: Place) -> None:
    config = '[[rules]]\nwith_runtime = "careful"\nsnapshotter = "native"\n[runtimes.careful]\nplugin = "runc"\n'
    name = f"{place.address}/busybox:1"
    with PrivateDaemon(config) as daemon:
        run = daemon.imod("run", "--rm", "--net", "none", "--runtime", "careful", name, "echo", "hello", check=True)
        assert run.stdout == "hello\n"
        assert len(snapshots(daemon, daemon.namespace, "native")) == 1
        assert snapshots(daemon, daemon.namespace) == []
        refused = daemon.imod("run", "--rm", "--runtime", "nope", f"{place.address}/large:1", "true")
        assert "there is no runtime nope" in refused.stderr
        assert len(daemon.imod("images", "ls", "-q", check=True).stdout.split()) == 1, (
            "refused before anything is fetched"
        )


def test_side_by_side_and_in_turn_are_the_same_tree(daemon: PrivateDaemon, place: Place, tmp_path: Path) -> None:
    """Overlayfs takes layers side by side, native in turn; the same image for both, fetched once."""
    name = f"{place.address}/chain:1"
    pull(daemon, "trees", name)
    assert "0.0 MB" in pull(daemon, "trees", "--snapshotter", "native", name).stderr
    assert len(snapshots(daemon, "trees")) == len(snapshots(daemon, "trees", "native")) == len(CHAIN)
    overlay, native = (tree(daemon, "trees", snapshotter, tmp_path) for snapshotter in ("overlayfs", "native"))
    for found in (overlay, native):  # the root's time is that of its making where no layer lists it
        found[b""] = found[b""][:3] + found[b""][4:]
    assert overlay == native
    assert {b"usr/lib/through", b"opt/a/3", b"opt/a/4", b"opt/b/2", b"etc/again"} <= set(overlay)
    assert not {b"opt/a/1", b"etc/new", b"etc/old"} & set(overlay)


def test_another_snapshotter_needs_no_network(daemon: PrivateDaemon, place: Place) -> None:
    with proxy(place.address) as reached:
        name = f"{reached.address}/busybox:1"
        pull(daemon, daemon.namespace, name)
    made = daemon.imod("run", "--rm", "--snapshotter", "native", name, "echo", "here", check=True)
    assert made.stdout == "here\n"


def test_one_fetch_for_one_digest(daemon: PrivateDaemon, place: Place, faulty: Proxy) -> None:
    """However many ask, and however often an image names it."""
    faulty.rule = lambda request: Fault(replace={"Accept-Ranges": None})
    name = f"{faulty.address}/twice:1"
    with ThreadPoolExecutor(4) as pool:
        for done in pool.map(lambda _: pull(daemon, "once", name), range(4)):
            assert done.stdout == f"{name}\n"
    for layer in place.built["twice"].layers:
        assert faulty.count("GET", layer) == 1


def test_large_blobs_come_in_parts(daemon: PrivateDaemon, place: Place, faulty: Proxy) -> None:
    name = f"{faulty.address}/large:1"
    pull(daemon, "parts", name)
    (layer,) = place.built["large"].layers
    asked = [request.headers.get("Range", "") for request in faulty.requests if layer in request.path]
    assert len(asked) == 4
    assert sum(each.startswith("bytes=") for each in asked) == 3
    assert layer in blobs(daemon, "parts")


def test_what_breaks_off_is_resumed(daemon: PrivateDaemon, place: Place, faulty: Proxy) -> None:
    (layer,) = place.built["large"].layers

    def rule(request: Request) -> Fault | None:
        return (
            Fault(cut=1_500_000, replace={"Accept-Ranges": None})
            if layer in request.path and not request.number
            else None
        )

    faulty.rule = rule
    pull(daemon, "resumed", f"{faulty.address}/large:1")
    asked = [request.headers.get("Range", "") for request in faulty.requests if layer in request.path]
    assert asked[0] == ""
    begin = int(asked[1].removeprefix("bytes=").partition("-")[0])
    assert 0 < begin <= 1_500_000, "what came before the end was not asked for again"


@pytest.mark.parametrize(
    ("what", "fault", "said"),
    [
        ("layer", Fault(change=lambda data: bytes(len(data))), "has the digest sha256:"),
        ("layer", Fault(change=lambda data: data[:-1]), "bytes there, and the descriptor that names it says"),
        ("layer", Fault(404), "404"),
        ("layer", Fault(cut=100_000, stall=True), "stalled: no byte for 1 s"),
        ("config", Fault(change=lambda data: data.replace(b"linux", b"linex")), "sent a document with the digest"),
        ("manifest", Fault(change=lambda data: data + b" "), "sent a document with the digest|bytes"),
        ("manifest", Fault(200, {"Content-Type": "text/html"}, b"<html>"), "has 6 bytes there"),
    ],
)
def test_what_is_wrong_is_said_and_leaves_nothing(
    daemon: PrivateDaemon, place: Place, faulty: Proxy, what: str, fault: Fault, said: str
) -> None:
    import re

    built = place.built["large"]
    part = {"layer": built.layers[0], "config": built.config, "manifest": "/manifests/"}[what]
    faulty.rule = lambda request: fault if part in request.path and request.method == "GET" else None
    space = f"wrong-{abs(hash((what, said))) % 10000}"
    done = pull(daemon, space, f"{faulty.address}/large:1", check=False)
    assert done.returncode == 125
    assert done.stderr.count("\n") == 1, done.stderr
    assert re.search(said, done.stderr), done.stderr
    assert blobs(daemon, space) == set()
    assert snapshots(daemon, space) == []
    assert daemon.imod("-n", space, "images", "ls", "-q", check=True).stdout == ""
    faulty.rule = lambda _: None
    pull(daemon, space, f"{faulty.address}/large:1")


def test_cancelled_at_any_moment(daemon: PrivateDaemon, place: Place, faulty: Proxy) -> None:
    """Given up by the client while it resolves, fetches, unpacks: nothing is left, and the next pull works."""
    name = f"{faulty.address}/twice:1"
    chance = random.Random(3)
    faulty.rule = lambda request: (
        Fault(cut=chance.randrange(1_000_000), trickle=0.001) if "/blobs/" in request.path else None
    )
    for _ in range(8):
        before = len(faulty.requests)
        process = subprocess.Popen(
            daemon.imod_command("-n", "cancelled", "images", "pull", name), stderr=subprocess.PIPE
        )
        wanted = before + chance.randrange(4)
        until(lambda wanted=wanted: len(faulty.requests) > wanted, 20)  # type: ignore[misc]
        time.sleep(chance.random() * 0.2)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        settled(daemon)
        assert blobs(daemon, "cancelled") == set()
    faulty.rule = lambda _: None
    pull(daemon, "cancelled", name)


def test_a_daemon_killed_in_the_middle(place: Place, faulty: Proxy) -> None:
    """The next one finds nothing half made, keeps no lease, and pulls."""
    faulty.rule = lambda request: Fault(cut=2_000_000, stall=True) if "/blobs/" in request.path else None
    with PrivateDaemon() as daemon:
        process = subprocess.Popen(
            daemon.imod_command("images", "pull", f"{faulty.address}/twice:1"), stderr=subprocess.DEVNULL
        )
        until(lambda: any((daemon.root / "content/local/incoming").iterdir()), 20)
        daemon.kill9()
        process.wait(20)
        daemon.start()
        settled(daemon)
        faulty.rule = lambda _: None
        daemon.imod("images", "pull", f"{faulty.address}/twice:1", check=True)


def test_a_password(daemon: PrivateDaemon, place: Place, tmp_path: Path) -> None:
    with registry(tmp_path / "closed", tls=True, closed=True) as closed:
        name = f"{closed.address}/mine:1"
        pull(daemon, "closed", f"{place.address}/busybox:1")
        # A local name means plain HTTP; this registry has TLS, as certs.d would say.
        with PrivateDaemon(f'[image_sources.registry]\nconfig_path = ["{tmp_path}/certs.d"]') as own:
            directory = tmp_path / "certs.d" / closed.address
            directory.mkdir(parents=True)
            (directory / "hosts.toml").write_text(f'server = "https://{closed.address}"\nca = "{closed.ca}"\n')
            own.imod("images", "pull", f"{place.address}/busybox:1", check=True)
            refused = own.imod("images", "push", f"{place.address}/busybox:1", name)
            assert "takes a user and a password" in refused.stderr
            creds = ("--creds", f"{USER}:{PASSWORD}")
            pushed = own.imod("images", "push", *creds, f"{place.address}/busybox:1", name, check=True)
            assert pushed.stdout == f"{name} {place.built['busybox'].manifest}\n"
            own.imod("images", "pull", *creds, name, check=True)
            told = own.imod("registry", "explain", *creds, name, check=True).stdout
            assert f"1. https://{closed.address}/v2" in told
            assert "given with the call" in told
            assert place.built["busybox"].manifest in told
            (host,) = json.loads(own.imod("registry", "explain", "-o", "json", name, check=True).stdout)
            assert host["credentials"] == ""


def test_push_keeps_the_digest_for_skopeo(daemon: PrivateDaemon, place: Place) -> None:
    for name in ("chain", "large"):
        pull(daemon, "pushed", f"{place.address}/{name}:1")
        daemon.imod(
            "-n", "pushed", "images", "tag", f"{place.address}/{name}:1", f"{place.address}/copy/{name}:2", check=True
        )
        daemon.imod("-n", "pushed", "images", "push", f"{place.address}/copy/{name}:2", check=True)
        command = ["skopeo", "inspect", "--tls-verify=false", f"docker://{place.address}/copy/{name}:2"]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)
        assert found["Digest"] == place.built[name].manifest


def test_bars_on_a_terminal(daemon: PrivateDaemon, place: Place) -> None:
    import pty

    ours, theirs = pty.openpty()
    command = daemon.imod_command("-n", "bars", "images", "pull", f"{place.address}/large:1")
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 65536)
        except OSError:
            break
    os.close(ours)
    assert process.wait(60) == 0
    assert b"download" in shown


def test_a_layer_that_is_not_new_is_not_fetched(
    daemon: PrivateDaemon, place: Place, faulty: Proxy, tmp_path: Path
) -> None:
    base = busybox_layer()
    more = write_image(tmp_path / "more.tar", [base, CHAIN[0]])
    push_archive(more.path, f"{place.address}/more:1")
    pull(daemon, "shared", f"{faulty.address}/busybox:1")
    pull(daemon, "shared", f"{faulty.address}/more:1")
    assert faulty.count("GET", place.built["busybox"].layers[0]) == 1
    assert len(snapshots(daemon, "shared")) == 2
