"""Run a console-script function and SIGKILL this process right before its k-th step.

    python -m tests.harness.launcher K module:function [ARG...]

A step is a call of `sys.audit("intermodal.step", name)`: the product raises it before every change that outlives the
process, and knows nothing of this hook. `function()` is called as a script's main is: `sys.argv` holds the arguments and
its result is the exit status. K = 0 never kills. Only this process is killed, not its children.

K = @FILE lets a process that serves live until it is told: once there is FILE, its first word is how many steps are left
from then on; it is removed when it is read. Where a second word follows, Python's own audit events that tell of a change
of the file system or of a socket are steps as well.

INTERMODAL_TEST_SLOW = "NAME SECONDS" in the environment makes whoever comes to the step NAME wait there, on its thread.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time

#: What a step is besides, for K = @FILE with a second word.
FINE = frozenset(
    ["os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "shutil.rmtree", "socket.bind", "socket.connect"]
)


def kill_at(k: int) -> None:
    """Install the hook. The last line on stderr names the step that was not taken."""
    seen = 0

    def hook(event: str, args: tuple[object, ...]) -> None:
        nonlocal seen
        if event == "intermodal.step":
            seen += 1
            if seen == k:
                _kill(k, args[0])

    sys.addaudithook(hook)


def kill_when_told(file: str) -> None:
    """Install the hook that waits for `file`; see K = @FILE above."""
    seen = k = 0
    events: frozenset[str] = frozenset()

    def hook(event: str, args: tuple[object, ...]) -> None:
        nonlocal seen, k, events
        if event not in events and event != "intermodal.step":
            return
        if not k:
            try:
                descriptor = os.open(file, os.O_RDONLY)
                os.unlink(file)
            except FileNotFoundError:
                return
            words = os.read(descriptor, 64).split()
            os.close(descriptor)
            k, events = int(words[0]), FINE if len(words) > 1 else frozenset()
        seen += 1
        if seen == k:
            _kill(k, args[0] if event == "intermodal.step" else f"{event} {args[0]!r}")

    sys.addaudithook(hook)


def be_slow(name: str, seconds: float) -> None:
    """Install a hook that waits at a step, so that more can happen beside it."""

    def hook(event: str, args: tuple[object, ...]) -> None:
        if event == "intermodal.step" and args[0] == name:
            time.sleep(seconds)

    sys.addaudithook(hook)


def _kill(k: int, step: object) -> None:
    os.write(2, f"killed before step {k}: {step}\n".encode())
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    k, target, *arguments = sys.argv[1:]
    module, _, function = target.partition(":")
    run = getattr(importlib.import_module(module), function)
    sys.argv = [target, *arguments]
    if slow := os.environ.get("INTERMODAL_TEST_SLOW"):
        name, seconds = slow.split()
        be_slow(name, float(seconds))
    if k.startswith("@"):
        kill_when_told(k[1:])
    else:
        kill_at(int(k))
    sys.exit(run())


if __name__ == "__main__":
    main()
