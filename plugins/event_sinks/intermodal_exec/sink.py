"""A command that is run for each batch, with the events as JSON lines on its standard input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from intermodal_core.contracts.event_sinks import SunkEvent
from intermodal_core.errors import FailedPrecondition
from intermodal_core.spawner import Spawner

__all__ = ["Command"]

#: Bytes of the command's errors that an error of ours quotes.
_QUOTED = 500


class Command:
    """Implements `intermodal_core.contracts.event_sinks.EventSink`.

    A batch is delivered when the command has ended with status 0 within `timeout` seconds; it is killed when it has not.
    The command has `environment` beside PATH, and INTERMODAL_EVENTS, the number of lines.
    """

    def __init__(
        self,
        spawner: Spawner,
        command: Sequence[str],
        filters: Sequence[str] = (),
        timeout: float = 30.0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.filters = tuple(filters)
        self._spawner = spawner
        self._command = tuple(command)
        self._timeout = timeout
        self._environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            **(environment or {}),
        }

    def deliver(self, events: tuple[SunkEvent, ...]) -> None:
        """Run the command."""
        self._run([event.json() for event in events])

    def lost(self, first: int, last: int) -> None:
        """Run it with a line that says so."""
        self._run([msgspec.json.encode({"lost": {"first": first, "last": last}})])

    def close(self) -> None:
        """Nothing is kept open."""

    def _run(self, lines: list[bytes]) -> None:
        done = self._spawner.run(
            self._command,
            b"".join(line + b"\n" for line in lines),
            self._timeout,
            env={**self._environment, "INTERMODAL_EVENTS": str(len(lines))},
        )
        if done.exit:
            said = done.stderr[-_QUOTED:].decode(errors="replace").strip()
            how = f"ended with status {done.exit}" if done.exit > 0 else f"was ended by signal {-done.exit}"
            raise FailedPrecondition(f"{self._command[0]} {how}" + (f": {said}" if said else ""))
