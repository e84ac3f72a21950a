"""Crash tests: a child process is killed by SIGKILL before its k-th step, for every k until it gets through.

    for run in every_kill("tests.plugins.content_child:main", lambda k: [str(tmp_path / str(k))]):
        check(tmp_path / str(run.k), run)     # reopen what the child left, and look

The function named runs in a child of its own under `tests.harness.launcher`; see there what a step is. For a process
that must be driven from outside while it runs (a daemon), start `command(k, "intermodal_core.daemon:main", ...)` with
`subprocess.Popen(..., cwd=ROOT)` and wait for its end; `killed(returncode)` tells whether the hook ended it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_LAST_LINE = re.compile(r"killed before step \d+: (.+)\n\Z")


@dataclass(frozen=True)
class Run:
    """How the k-th run ended: `completed`, or killed before `step`; `output` is its stdout."""

    k: int
    completed: bool
    step: str
    output: str


def command(k: int, target: str, *arguments: str) -> list[str]:
    """The command line, to be run in the directory ROOT, that kills itself before the k-th step (0: never)."""
    return [sys.executable, "-m", "tests.harness.launcher", str(k), target, *arguments]


def killed(returncode: int) -> bool:
    return returncode == -signal.SIGKILL


def run_killed(
    target: str,
    k: int,
    arguments: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    timeout: float = 60,
) -> Run:
    """Run `module:function` until its k-th step. Fails the test when it ends otherwise than killed or with status 0."""
    child = subprocess.run(
        command(k, target, *arguments),
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if child.returncode == 0:
        return Run(k, True, "", child.stdout)
    step = _LAST_LINE.search(child.stderr)
    assert killed(child.returncode), f"{target}, to be killed at step {k}, failed:\n{child.stdout}{child.stderr}"
    assert step, f"{target} was killed by somebody else:\n{child.stderr}"
    return Run(k, False, step[1], child.stdout)


def every_kill(
    target: str,
    arguments: Callable[[int], Sequence[str]],
    env: Mapping[str, str] | None = None,
    most: int = 200,
) -> Iterator[Run]:
    """A run for every k from 1, each with `arguments(k)`; the last one is the first that completes."""
    for k in count(1):
        assert k <= most, f"{target} did not complete in {most} steps"
        run = run_killed(target, k, arguments(k), env)
        yield run
        if run.completed:
            return
