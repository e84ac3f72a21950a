"""Collecting half of many blobs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count

from intermodal_api.containerd.services import content_pb2, leases_pb2

from bench.figures import Figure
from bench.measuring import Bench, milliseconds, take_turns
from bench.peers import Peer
from tests.harness.api import Api

_BLOBS = 10_000
_CLIENTS = 8
_numbers = count()


def collect(bench: Bench) -> list[Figure]:
    """`ctr leases delete --sync` of a lease that alone protects 10,000 of 20,000 blobs."""
    figure = Figure("collect 10,000 of 20,000 blobs, ctr leases rm --sync", "ms", targets={bench.reference: 0.60})
    for peer in bench.peers:
        _fill(peer, "keep")
    try:
        samplers = {peer.name: partial(_collect, peer) for peer in bench.peers}
        take_turns(figure, samplers, max(2, bench.rounds // 16), warm_up=0)
    finally:
        for peer in bench.peers:
            peer.ctr("leases", "rm", "--sync", "keep")
    return [figure]


def _collect(peer: Peer) -> float:
    _fill(peer, "go")
    return milliseconds(partial(peer.ctr, "leases", "rm", "--sync", "go"))


def _fill(peer: Peer, lease: str) -> None:
    """Blobs of their own under a new lease, by several clients at once."""
    peer.calls(leases_pb2, "Leases.Create", id=lease)

    def write(client: int) -> None:
        with Api(peer.address, peer.namespace, lease) as api:
            for _ in range(_BLOBS // _CLIENTS):
                data = b"%d" % next(_numbers)
                message = content_pb2.WriteContentRequest(action=content_pb2.COMMIT, ref=data.decode(), data=data)
                api.send(content_pb2, "Write", [message])

    with ThreadPoolExecutor(_CLIENTS) as pool:
        list(pool.map(write, range(_CLIENTS)))
