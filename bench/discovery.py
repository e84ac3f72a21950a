"""What an installed plugin costs the daemon's start that has switched it off: milliseconds of CPU each, of 200."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.figures import OURS, Figure
from bench.measuring import Bench
from tests.harness.discovery import install, probe

__all__ = ["discovery"]

INSTALLED, USED = 200, 3
MOST = 0.25  # ms each that are asked for
_ASKED = "asked for"


def discovery(bench: Bench) -> list[Figure]:
    """What 200 installed plugins, all switched off but three, add to a start that finds none."""
    figure = Figure(
        f"discovery: each of {INSTALLED} installed plugins, all but {USED} switched off", "ms", targets={_ASKED: 1.0}
    )
    with tempfile.TemporaryDirectory() as many, tempfile.TemporaryDirectory() as none:
        install(Path(many), INSTALLED, USED)
        install(Path(none), 0, 0)
        for _ in range(5):
            seconds = [float(str(probe(Path(place))["seconds"])) for place in (many, none)]
            figure.add(OURS, (seconds[0] - seconds[1]) / INSTALLED * 1e3)
        figure.add(_ASKED, MOST)
    return [figure]
