"""Ending a process between any two steps, to see what the next one finds.

The code under test needs no switch: Python tells its audit hooks of each change of the file system, and our own code
raises `sys.audit("intermodal.step", name)` where it goes from one step to the next.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any, Final

__all__ = ["kill_at_every_step", "killed_at"]

_STEPS: Final = frozenset(
    {
        "intermodal.step",
        "os.chmod",
        "os.chown",
        "os.link",
        "os.mkdir",
        "os.remove",
        "os.rename",
        "os.rmdir",
        "os.setxattr",
        "os.symlink",
        "os.truncate",
        "os.utime",
    }
)
_FAILED: Final = 70


def killed_at(step: int, scenario: Callable[[Callable[[], None]], None], timeout: float = 60) -> tuple[bool, int]:
    """Run `scenario(done)` in a forked child that SIGKILLs itself right before its `step`-th step, counted from 1.

    Returns whether it was killed (else it came to its end), and how often it had called `done()`. Steps are changes of
    the file system and `intermodal.step`, of all threads. Raises AssertionError where the child failed otherwise, or
    took longer than `timeout` seconds.
    """
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _run(step, scenario, writer)
    os.close(writer)
    pidfd = os.pidfd_open(child)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        ended = poll.poll(timeout * 1000)
        if not ended:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        calls = len(os.read(reader, 65536))
    finally:
        os.close(pidfd)
        os.close(reader)
    assert ended, f"the scenario did not end within {timeout} s"
    assert status in (0, -signal.SIGKILL), f"the scenario failed with status {status}, see its traceback on stderr"
    return status != 0, calls


def kill_at_every_step(prepare: Callable[[], Callable[[Callable[[], None]], None]]) -> Iterator[tuple[int, int]]:
    """For each step of a scenario: make it anew by `prepare()`, kill it there, and yield (step, calls of `done`).

    Ends after the first run that comes to its end, which is yielded too.
    """
    step = 0
    killed = True
    while killed:
        step += 1
        killed, calls = killed_at(step, prepare())
        yield step, calls


def _run(step: int, scenario: Callable[[Callable[[], None]], None], writer: int) -> None:
    left = step

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal left
        creates = event == "open" and isinstance(args[2], int) and args[2] & os.O_CREAT
        if event in _STEPS or creates:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        sys.addaudithook(hook)
        scenario(lambda: _mark(writer))
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(_FAILED)


def _mark(writer: int) -> None:
    os.write(writer, b".")
