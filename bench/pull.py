"""Pull and unpack: an image of many files from a registry on this machine, by the same ctr."""

from __future__ import annotations

import os
import random
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from bench.figures import Figure
from bench.measuring import Bench, milliseconds, take_turns
from bench.peers import Peer, forget_images
from tests.harness.images import Entry, layer_tar, write_image
from tests.harness.registry import push_archive, registry

_LAYERS = 4
_FILES = 16_000
_BIG = 120_000_000


def pull(bench: Bench) -> list[Figure]:
    """`ctr images pull` of 16,000 small files and 120 MB in big ones, in four layers; each time from nothing."""
    figure = Figure("pull and unpack, ctr images pull", "s", targets={bench.reference: 0.75})
    with ExitStack() as stack:
        address = stack.enter_context(registry(bench.directory / "registry")).address
        reference = f"{address}/bench:latest"
        _push(bench.directory, reference)
        samplers = {}
        for peer in bench.peers:
            own = stack.enter_context(peer.in_namespace("pull"))
            samplers[peer.name] = partial(_pull, own, reference)
        take_turns(figure, samplers, max(3, bench.rounds // 6), warm_up=1)
    return [figure]


def _pull(peer: Peer, reference: str) -> float:
    """Seconds that it takes; what was pulled is gone afterwards."""
    os.sync()
    taken = milliseconds(partial(peer.ctr, "images", "pull", "--plain-http", reference))
    forget_images(peer)
    return taken / 1000


def _push(directory: Path, reference: str) -> None:
    archive = directory / "image.tar"
    write_image(archive, [_layer(number) for number in range(_LAYERS)])
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
