"""A process in the foreground: our streams are its streams, our signals its signals, its status ours."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import ExitStack

from intermodal.cli import terminal
from intermodal.cli.errors import CANNOT_RUN, NOT_THERE, DaemonError, Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from intermodal.cli.channel import Call
    from intermodal.cli.main import Session

__all__ = ["run_process"]

#: What a user or a supervisor sends to a command that waits.
FORWARDED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def run_process(
    session: Session, method: str, *, interactive: bool, tty: bool, timings: bool = False, **params: Any
) -> int:
    """Start a process by `method`, with our streams, and wait for it; returns its status.

    Raises Failure, with status 126 or 127 where the command cannot be executed or is not there.
    """
    if interactive and tty and not os.isatty(0):
        raise Failure("-i with -t needs a terminal on stdin: leave -t out when input comes from a file or a pipe")
    if timings:
        params["timings"] = True
    streams = [0, 1, 2] if interactive else [1, 2]
    with session.call(method, streams, **params) as call, ExitStack() as restore:
        process = _Process(call, tty)
        for number in FORWARDED:
            signal.signal(number, process.forward)
        if interactive and tty:
            restore.enter_context(terminal.Raw(0))
        try:
            status: int = call.result(process.started)["status"]
        except DaemonError as error:
            if error.reason == "cancelled" and process.asked:
                return 128 + process.asked
            raise _by_meaning(error) from None
    if process.phases:
        show_timings(process.phases)
    return status


class _Process:
    """What we know of it while we wait."""

    def __init__(self, call: Call, tty: bool) -> None:
        self._call = call
        self._tty = tty
        self._runs = False
        self.asked = 0
        self.phases: list[Any] = []

    def started(self, line: dict[str, Any], _: list[int]) -> None:
        """It runs."""
        self._runs = True
        self.phases = line["event"]["started"].get("timings", [])
        if self._tty:
            signal.signal(signal.SIGWINCH, self.resize)
            self.resize()

    def forward(self, number: int, _: Any) -> None:
        """Pass a signal on. Before it runs, the daemon takes it as giving up; who asks twice does not wait for that."""
        if self.asked and not self._runs:
            raise KeyboardInterrupt
        self.asked = number
        self._call.send(signal=number)

    def resize(self, *_: Any) -> None:
        """Tell the size of our terminal."""
        if (now := terminal.size()) is not None:
            self._call.send(resize=now)


def show_timings(phases: list[Any]) -> None:
    """What the start took, on stderr."""
    for name, seconds in phases:
        print(f"{seconds * 1000:9.2f} ms  {name}", file=sys.stderr)
    print(f"{sum(seconds for _, seconds in phases) * 1000:9.2f} ms  together", file=sys.stderr)


def _by_meaning(error: DaemonError) -> Failure:
    """126 and 127 as shells and docker have them; the sentence is the OCI runtime's."""
    sentence = str(error)
    if "executable file not found" in sentence or ("exec" in sentence and "no such file or directory" in sentence):
        return Failure(sentence, NOT_THERE)
    if "exec" in sentence and ("permission denied" in sentence or "is a directory" in sentence):
        return Failure(sentence, CANNOT_RUN)
    return error
