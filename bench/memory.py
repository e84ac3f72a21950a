"""Resident memory: the daemon with nothing to do, and what thirty and a hundred containers cost."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.cycle import Cycle
from bench.figures import Figure
from bench.measuring import Bench
from bench.peers import Peer, end_containers

_SETTLE = 2.0
_EVERYTHING = "daemon, its children, {} shims, PSS"


def idle(bench: Bench) -> list[Figure]:
    """The daemon process after its start and one import; ours with its spawner as well."""
    time.sleep(_SETTLE)
    resident = Figure("daemon, idle, RSS", "MB", targets={bench.reference: 1.5})
    whole = Figure("daemon and its children, idle, PSS", "MB")
    for peer in bench.peers:
        resident.add(peer.name, _kilobytes(Path(f"/proc/{peer.pid}/status"), "VmRSS") / 1000)
        whole.add(peer.name, sum(_pss(pid) for pid in (peer.pid, *_children(peer.pid))) / 1000)
    return [resident, whole]


def thirty(bench: Bench) -> list[Figure]:
    """With thirty idle containers: a shim's share, and that of everything but the containers themselves."""
    shim = Figure("shim at 30 containers, PSS", "MB", targets={bench.reference: 0.5})
    private = Figure("shim at 30 containers, private", "MB")
    resident = Figure("shim at 30 containers, RSS", "MB")
    whole = Figure(_EVERYTHING.format(30), "MB")
    for peer in bench.peers:
        with _idle_containers(peer, 30) as (shims, others):
            shares = [_pss(pid) for pid in shims]
            shim.add(peer.name, *(share / 1000 for share in shares))
            private.add(peer.name, *(_private(pid) / 1000 for pid in shims))
            resident.add(peer.name, *(_kilobytes(Path(f"/proc/{pid}/status"), "VmRSS") / 1000 for pid in shims))
            whole.add(peer.name, (sum(shares) + sum(_pss(pid) for pid in others)) / 1000)
    return [shim, private, resident, whole]


def hundred(bench: Bench) -> list[Figure]:
    """With a hundred idle containers: everything but the containers themselves."""
    whole = Figure(_EVERYTHING.format(100), "MB", targets={bench.reference: 0.6})
    for peer in bench.peers:
        with _idle_containers(peer, 100) as (shims, others):
            whole.add(peer.name, sum(_pss(pid) for pid in shims | others) / 1000)
    return [whole]


@contextmanager
def _idle_containers(peer: Peer, count: int) -> Iterator[tuple[set[int], set[int]]]:
    """So many containers that sleep: their shims, and the daemon with its other children."""
    cycle = Cycle(peer)
    pids = [cycle.start("sleep", "86400")[1] for _ in range(count)]
    time.sleep(_SETTLE)
    # Whatever the daemon: a shim is the parent of its container's first process.
    shims = {_parent(pid) for pid in pids}
    if len(shims) != count or peer.pid in shims:
        raise RuntimeError(f"{len(shims)} processes are the parents of {count} containers on {peer.name}")
    yield shims, {peer.pid, *_children(peer.pid)} - shims
    end_containers(peer)


def afterwards(bench: Bench) -> list[Figure]:
    """The daemon process again, when all the other measurements are over."""
    time.sleep(_SETTLE)
    resident = Figure("daemon, at the end, RSS", "MB")
    for peer in bench.peers:
        resident.add(peer.name, _kilobytes(Path(f"/proc/{peer.pid}/status"), "VmRSS") / 1000)
    return [resident]


def _pss(pid: int) -> int:
    return _kilobytes(Path(f"/proc/{pid}/smaps_rollup"), "Pss")


def _private(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup")
    return _kilobytes(rollup, "Private_Clean") + _kilobytes(rollup, "Private_Dirty")


def _kilobytes(file: Path, field: str) -> int:
    """The number that a line of a /proc file gives, in units of 1024 bytes made units of 1000."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", file.read_text(), re.MULTILINE)
    assert found, f"no {field} in {file}"
    return round(int(found[1]) * 1.024)


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _children(pid: int) -> set[int]:
    """All the processes below a process; threads and processes may end meanwhile."""
    below: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            direct = {int(word) for word in task.read_text().split()}
        except OSError:
            continue
        below |= direct.union(*(_children(child) for child in direct))
    return below
