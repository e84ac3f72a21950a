"""Whole commands, as typed: ctr on each daemon, and imod on ours."""

from __future__ import annotations

from functools import partial
from itertools import count

from bench.figures import OURS, Figure
from bench.measuring import Bench, Sampler, take_turns, timed
from bench.peers import Peer, run
from tests.harness.images import NAME

_numbers = count()


def ctr_run(bench: Bench) -> list[Figure]:
    """`ctr run --rm IMAGE NAME true`, the same ctr on each."""
    figure = Figure("ctr run --rm", "ms", targets={bench.reference: 0.90})
    take_turns(figure, {peer.name: timed(partial(_ctr, peer)) for peer in bench.peers}, bench.rounds)
    return [figure]


def imod_run(bench: Bench) -> list[Figure]:
    """`imod run --rm --net none` on our daemon beside `ctr run --rm` on each."""
    ours = bench.peers[0]
    names = [(peer, "ctr on intermodal" if peer is ours else peer.name) for peer in bench.peers]
    figure = Figure("imod run --rm / ctr run --rm", "ms", targets={bench.reference: 0.90})
    command = ours.imod_command("run", "--rm", "--net", "none", NAME, "true")
    samplers: dict[str, Sampler] = {OURS: timed(partial(run, command))}
    samplers |= {name: timed(partial(_ctr, peer)) for peer, name in names}
    take_turns(figure, samplers, bench.rounds)
    return [figure]


def _ctr(peer: Peer) -> None:
    peer.ctr("run", "--rm", NAME, f"ctr{next(_numbers)}", "true")
