"""`python -m bench`: this daemon and Debian's containerd side by side, driven by the same clients, in turns.

A time never fails anything; what is printed is the medians, their spread, and how far the targets are reached.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

from intermodal_snapshots.mounts import filesystem_of

from bench import bus, commands, discovery, life, machine, memory, networks, pull, storage, unary
from bench.figures import Figure, table
from bench.measuring import Bench
from bench.peers import start

MEASUREMENTS: dict[str, Callable[[Bench], list[Figure]]] = {
    "idle": memory.idle,
    "cycle": life.cycle,
    "at-once": life.at_once,
    "exec": life.exec,
    "ctr-run": commands.ctr_run,
    "imod-run": commands.imod_run,
    "imod-run-networks": networks.imod_run_networks,
    "networks": networks.networks,
    "unary": unary.unary,
    "discovery": discovery.discovery,
    "events": bus.events,
    "memory": memory.thirty,
    "memory-100": memory.hundred,
    "pull": pull.pull,
    "pull-debian": pull.pull_debian,
    "commit": pull.commit,
    "images-ls": pull.list_images,
    "collect": storage.collect,
    "end": memory.afterwards,
}


def main() -> int:
    options = _options()
    missing = [name for name in ("containerd", "ctr", "runc", "skopeo") if shutil.which(name) is None]
    if os.geteuid() != 0 or missing:
        print(f"bench needs root, and these programs: {' '.join(missing) or 'all here'}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _interrupted)
    known = machine.facts()
    print(", ".join(f"{key} {value}" for key, value in known.items()), flush=True)
    results = []
    failed = False
    try:
        for place in options.root or machine.places():
            print(f"\non {place} ({filesystem_of(place)})", flush=True)
            began = time.monotonic()
            figures, errors = _measure(place, options)
            failed = failed or bool(errors)
            print(table(figures), *errors, f"({time.monotonic() - began:.0f} s)", sep="\n", flush=True)
            results.append(
                {
                    "root": str(place),
                    "filesystem": filesystem_of(place),
                    "figures": [figure.to_json() for figure in figures],
                    "errors": errors,
                }
            )
    except KeyboardInterrupt:
        print("interrupted; everything was removed", file=sys.stderr)
        return 130
    if options.json:
        options.json.write_text(json.dumps({"machine": known, "results": results}, indent=1) + "\n")
    return 1 if failed else 0


def _measure(place: Path, options: argparse.Namespace) -> tuple[list[Figure], list[str]]:
    """All the figures on one place; a measurement that cannot be taken is an error, and the others go on."""
    figures: list[Figure] = []
    errors: list[str] = []
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=place) as directory,
        start(Path(directory), options.also) as peers,
    ):
        bench = Bench(peers, options.rounds, Path(directory))
        try:
            for name in options.only or MEASUREMENTS:
                _progress(name)
                try:
                    figures += MEASUREMENTS[name](bench)
                except Exception as error:
                    errors.append(f"{name}: {type(error).__name__}: {error}")
        finally:
            _progress("cleaning up")
            # A second Ctrl-C would leave things behind.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _progress("")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _interrupted)
    return figures, errors


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=int, help="samples of each cheap figure (default: 40, with --quick 8)")
    parser.add_argument("--quick", action="store_true", help="few samples, and in memory only")
    parser.add_argument("--only", action="append", choices=MEASUREMENTS, metavar="NAME", help=" ".join(MEASUREMENTS))
    parser.add_argument(
        "--root", action="append", type=Path, metavar="DIR", help="where (default: memory, then a disk)"
    )
    parser.add_argument("--also", default="", metavar="PATH", help="a further containerd, its shim beside it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    options = parser.parse_args()
    options.rounds = options.rounds or (8 if options.quick else 40)
    if options.quick and not options.root:
        options.root = machine.places()[:1]
    return options


def _progress(what: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{what}", end="", file=sys.stderr, flush=True)


def _interrupted(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
