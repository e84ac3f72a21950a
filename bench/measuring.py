"""What every measurement is given, and how its turns are taken."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.figures import Figure
from bench.peers import Peer

Action = Callable[[], object]
Sampler = Callable[[], float]


@dataclass(frozen=True)
class Bench:
    """The daemons, ours first and Debian's second; how many samples of a cheap figure; a directory of the run's own."""

    peers: Sequence[Peer]
    rounds: int
    directory: Path

    @property
    def reference(self) -> str:
        """The name of the daemon that the targets are about."""
        return self.peers[1].name


def milliseconds(action: Action) -> float:
    """How long `action` takes."""
    started = time.perf_counter_ns()
    action()
    return (time.perf_counter_ns() - started) / 1e6


def timed(action: Action) -> Sampler:
    """A sampler whose samples are the milliseconds that `action` takes."""
    return partial(milliseconds, action)


def take_turns(figure: Figure, samplers: Mapping[str, Sampler], rounds: int, *, warm_up: int = 2) -> None:
    """Add `rounds` samples of each to `figure`, in an order that turns round each time: A B, B A, A B.

    `warm_up` rounds more come first and are not counted.
    """
    names = list(samplers)
    gc.collect()
    gc.disable()
    try:
        for turn in range(-warm_up, rounds):
            for name in names if turn % 2 else reversed(names):
                sample = samplers[name]()
                if turn >= 0:
                    figure.add(name, sample)
    finally:
        gc.enable()
