"""Pull and unpack from a registry on this machine, driven by the daemon and by the same ctr; a commit of many files."""

from __future__ import annotations

import os
import random
import secrets
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from intermodal_api.containerd.services import content_pb2 as content
from intermodal_api.containerd.services import diff_pb2 as diff
from intermodal_api.containerd.services import images_pb2 as images
from intermodal_api.containerd.services import snapshots_pb2 as snapshots
from intermodal_core.contracts.common import Mount
from intermodal_snapshots.mounts import temp_mount

from bench.figures import OURS, Figure
from bench.measuring import Bench, milliseconds, take_turns
from bench.peers import SNAPSHOTTER, Peer, forget_images, run
from tests.harness.images import Entry, layer_tar, write_image
from tests.harness.registry import push_archive, registry

_LAYERS = 4
_FILES = 16_000
_BIG = 120_000_000
_MANY_LAYERS = 40
_FEW_FILES = 200
_CHANGED = 5000


def pull(bench: Bench) -> list[Figure]:
    """An image of many files, and one of many layers; each time from nothing."""
    cases: dict[str, Callable[[], list[bytes]]] = {
        "16,000 files and 120 MB in 4 layers": lambda: [_layer(number) for number in range(_LAYERS)],
        "40 layers of 200 files": lambda: [_thin_layer(number) for number in range(_MANY_LAYERS)],
    }
    return [figure for what, layers in cases.items() for figure in _pulls(bench, what, layers())]


def pull_debian(bench: Bench) -> list[Figure]:
    """A Debian system made with debootstrap, which takes it from the network."""
    root = bench.directory / "debian"
    run(["debootstrap", "--variant=minbase", "stable", str(root)])
    try:
        done = subprocess.run(
            ["tar", "-C", str(root), "--exclude=./dev/*", "-c", "."], capture_output=True, check=True, timeout=300
        )
    finally:
        run(["rm", "-rf", str(root)])
    return _pulls(bench, "a Debian system", [done.stdout])


def _pulls(bench: Bench, what: str, layers: list[bytes]) -> list[Figure]:
    """Driven by the daemon, where ours has `imod`; driven by ctr, layer after layer; and the memory of the first."""
    driven = Figure(f"pull, daemon-driven: {what}", "s", targets={bench.reference: 0.33})
    by_ctr = Figure(f"pull, ctr images pull: {what}", "s", targets={bench.reference: 0.65})
    memory = Figure(f"peak of all processes: {what}", "MB")
    rounds = max(3, bench.rounds // 6)
    with ExitStack() as stack:
        address = stack.enter_context(registry(bench.directory / f"registry-{secrets.token_hex(4)}")).address
        reference = f"{address}/bench:latest"
        _push(bench.directory, reference, layers)
        peers = [stack.enter_context(peer.in_namespace("pull")) for peer in bench.peers]
        first = {peer.name: partial(_pull, peer, reference, peer.name == OURS) for peer in peers}
        take_turns(driven, first, rounds, warm_up=1)
        take_turns(by_ctr, {peer.name: partial(_pull, peer, reference, False) for peer in peers}, rounds, warm_up=1)
        take_turns(memory, {peer.name: partial(_peak, peer, reference) for peer in peers}, 3, warm_up=0)
    return [driven, by_ctr, memory]


def _pull(peer: Peer, reference: str, daemon_driven: bool) -> float:
    """Seconds that it takes; what was pulled is gone afterwards."""
    os.sync()
    command = _command(peer, reference, daemon_driven)
    taken = milliseconds(partial(run, command))
    forget_images(peer)
    return taken / 1000


def _command(peer: Peer, reference: str, daemon_driven: bool) -> list[str]:
    if daemon_driven:
        return peer.imod_command("images", "pull", "-q", "--plain-http", reference)
    return ["ctr", "-a", peer.address, "-n", peer.namespace, "images", "pull", "--plain-http", reference]


def _peak(peer: Peer, reference: str) -> float:
    """Megabytes of the daemon, its children and the client together, at the most, shared pages once."""
    command = subprocess.Popen(
        _command(peer, reference, peer.name == OURS), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    peaks = [0]
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.005):
            peaks.append(_proportional([peer.pid, command.pid]))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        if command.wait(300):
            raise RuntimeError(f"the pull on {peer.name} failed")
    finally:
        ended.set()
        watching.join()
    forget_images(peer)
    return max(peaks) / 1024


def _proportional(pids: list[int]) -> int:
    """kB of PSS of processes and all that come from them."""
    total = 0
    pending = list(pids)
    while pending:
        pid = pending.pop()
        try:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
            for task in os.listdir(f"/proc/{pid}/task"):
                pending += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
        except OSError:
            continue  # it has ended meanwhile
    return total


def commit(bench: Bench) -> list[Figure]:
    """A layer of 5,000 changed files upon a system of as many more, by the Diff service."""
    figure = Figure(f"commit of a {_CHANGED:,}-file change", "ms", targets={bench.reference: 0.6})
    with ExitStack() as stack:
        samplers = {}
        for peer in bench.peers:
            own = stack.enter_context(peer.in_namespace("commit"))
            left, right = stack.enter_context(_changed(own, bench.directory))
            samplers[peer.name] = partial(_diff, own, left, right)
        take_turns(figure, samplers, max(4, bench.rounds // 4), warm_up=1)
    return [figure]


@contextmanager
def _changed(peer: Peer, directory: Path) -> Iterator[tuple[list[Any], list[Any]]]:
    """The mounts of a committed snapshot and of a changed one upon it; both are gone afterwards."""
    calls, keys = peer.calls, {"base": "bench-base", "below": "bench-below", "above": "bench-above"}

    kept = {"containerd.io/gc.root": "bench"}

    def prepare(key: str, parent: str = "", method: str = "Prepare") -> list[Any]:
        fields = {"snapshotter": SNAPSHOTTER, "key": key, "parent": parent, "labels": kept}
        answer = calls(snapshots, f"Snapshots.{method}", **fields)
        return list(answer.mounts)

    with _mounted(prepare("bench-making"), directory) as top:
        _fill(top / "base", _CHANGED, 1)
        _fill(top / "change", _CHANGED // 2, 2)
    calls(snapshots, "Snapshots.Commit", snapshotter=SNAPSHOTTER, key="bench-making", name=keys["base"], labels=kept)
    left = prepare(keys["below"], keys["base"], "View")
    right = prepare(keys["above"], keys["base"])
    with _mounted(right, directory) as top:
        _fill(top / "change", _CHANGED // 2, 3)
        _fill(top / "new", _CHANGED // 2, 4)
    try:
        yield left, right
    finally:
        for key in (keys["above"], keys["below"], keys["base"]):
            calls(snapshots, "Snapshots.Remove", snapshotter=SNAPSHOTTER, key=key)


@contextmanager
def _mounted(mounts: list[Any], directory: Path) -> Iterator[Path]:
    made = [Mount(each.type, each.source, tuple(each.options), each.target) for each in mounts]
    with temp_mount(made, directory) as top:
        yield top


def _fill(top: Path, count: int, seed: int) -> None:
    chance = random.Random(seed)
    pool = chance.randbytes(1 << 18).hex().encode()
    for index in range(count):
        directory = top / str(index // 50)
        if index % 50 == 0:
            directory.mkdir(parents=True, exist_ok=True)
        start = chance.randrange(len(pool) - 8192)
        (directory / str(index)).write_bytes(pool[start : start + chance.randrange(200, 8000)])


def _diff(peer: Peer, left: list[Any], right: list[Any]) -> float:
    began = time.perf_counter()
    made = peer.calls(diff, "Diff.Diff", left=left, right=right, ref=f"bench-{secrets.token_hex(4)}").diff
    taken = (time.perf_counter() - began) * 1000
    peer.calls(content, "Content.Delete", digest=made.digest)
    return taken


def list_images(bench: Bench) -> list[Figure]:
    """`Images.List` of 5,000, and of ours alone the time within the daemon."""
    figure = Figure("images ls with 5,000 images", "ms")
    count = 5000
    with ExitStack() as stack:
        samplers = {}
        for peer in bench.peers:
            own = stack.enter_context(peer.in_namespace("images"))
            target = {
                "media_type": "application/vnd.oci.image.manifest.v1+json",
                "digest": f"sha256:{'0' * 64}",
                "size": 1,
            }
            for number in range(count):
                image = {"name": f"registry.example/team/image-{number}:1", "target": target}
                own.calls(images, "Images.Create", image=image)
            samplers[peer.name] = partial(milliseconds, partial(own.calls, images, "Images.List"))
        take_turns(figure, samplers, max(5, bench.rounds // 2))
    return [figure]


def _push(directory: Path, reference: str, layers: list[bytes]) -> None:
    archive = directory / "image.tar"
    write_image(archive, layers)
    try:
        push_archive(archive, reference)
    finally:
        archive.unlink()


def _layer(number: int) -> bytes:
    """A quarter of the files, forty a directory; hexadecimal digits, so that they shrink to half as programs do."""
    chance = random.Random(number)
    pool = chance.randbytes(1 << 20).hex().encode()
    entries = [Entry(name) for name in ("usr", "usr/lib", f"usr/lib/{number}")]
    for index in range(_FILES // _LAYERS):
        directory = f"usr/lib/{number}/{index // 40}"
        if index % 40 == 0:
            entries.append(Entry(directory))
        start = chance.randrange(len(pool) - 8192)
        entries.append(Entry(f"{directory}/{index}", pool[start : start + chance.randrange(200, 8000)], mode=0o644))
    for index in range(3):
        data = chance.randbytes(_BIG // _LAYERS // 3 // 2).hex().encode()
        entries.append(Entry(f"usr/lib/{number}/big{index}", data, mode=0o644))
    return layer_tar(entries)


def _thin_layer(number: int) -> bytes:
    """A few files, as a step of a build writes them."""
    chance = random.Random(number)
    entries = [Entry(name) for name in ("srv", f"srv/{number}")]
    entries += [Entry(f"srv/{number}/{index}", chance.randbytes(1000), mode=0o644) for index in range(_FEW_FILES)]
    return layer_tar(entries)
