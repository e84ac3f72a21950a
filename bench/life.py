"""What people wait for, through the API: a container's whole life, eight at once, a further process."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

from bench.cycle import Cycle
from bench.figures import Figure
from bench.measuring import Bench, milliseconds, take_turns, timed
from bench.peers import end_containers
from bench.runc import BareRunc

_AT_ONCE = 8


def cycle(bench: Bench) -> list[Figure]:
    """Create, start, wait and delete of `true`, and the same work by runc's commands alone."""
    figure = Figure("create, start, wait, delete", "ms", targets={bench.reference: 0.70, "bare runc": 1.4})
    cycles = {peer.name: Cycle(peer) for peer in bench.peers}
    samplers = {name: timed(partial(cycle.run, "true")) for name, cycle in cycles.items()}
    with BareRunc(bench.directory, cycles[bench.reference].spec) as bare:
        take_turns(figure, samplers | {"bare runc": timed(bare.run)}, bench.rounds)
    return [figure]


def at_once(bench: Bench) -> list[Figure]:
    """The same, by eight clients at once."""
    figure = Figure(f"the same, {_AT_ONCE} at once", "/s", targets={bench.reference: 1.5}, higher=True)
    with ThreadPoolExecutor(_AT_ONCE) as pool:

        def some(cycle: Cycle) -> None:
            for done in [pool.submit(cycle.run, "true") for _ in range(2 * _AT_ONCE)]:
                done.result()

        def rate(cycle: Cycle) -> float:
            return 2 * _AT_ONCE / milliseconds(partial(some, cycle)) * 1000

        samplers = {peer.name: partial(rate, Cycle(peer)) for peer in bench.peers}
        take_turns(figure, samplers, max(3, bench.rounds // 4), warm_up=1)
    return [figure]


def exec(bench: Bench) -> list[Figure]:
    """A further process in a running container, from Exec to DeleteProcess."""
    figure = Figure("exec, wait, delete", "ms", targets={bench.reference: 0.85})
    samplers = {}
    for peer in bench.peers:
        cycle = Cycle(peer)
        name, _ = cycle.start("sleep", "86400")
        samplers[peer.name] = timed(partial(cycle.exec, name, "true"))
    take_turns(figure, samplers, bench.rounds)
    for peer in bench.peers:
        end_containers(peer)
    return [figure]
