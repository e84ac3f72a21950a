"""What a bundle keeps of its shim."""

from __future__ import annotations

import json
import os
from typing import NamedTuple

from intermodal_shim.runtime import Options

__all__ = ["Record", "identity"]

_FILE = "shim.json"


class Record(NamedTuple):
    """Kept in the bundle: the shim's process, by pid, start time and session, and the options it was started with.

    The shim leads a process group, which its runtime commands are in; a container's processes are not.
    """

    options: Options
    pid: int = 0
    started: int = 0
    session: int = 0

    @staticmethod
    def of(pid: int, options: Options) -> Record:
        """That of a shim that lives."""
        _, session, started = identity(pid)
        return Record(options, pid, started, session)

    @staticmethod
    def write(bundle: str, pid: int, options: Options) -> None:
        """Keep it."""
        path = os.path.join(bundle, _FILE)
        text = json.dumps({**Record.of(pid, options)._asdict(), "options": options._asdict()})
        with open(path, "w", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(text)

    @staticmethod
    def read(bundle: str, default: Record) -> Record:
        """What was kept, `default` where it is missing or torn."""
        try:
            with open(os.path.join(bundle, _FILE), encoding="utf-8") as file:
                kept = json.load(file)
            options = Options(**{**kept["options"], "flags": tuple(kept["options"]["flags"])})
            return Record(options, int(kept["pid"]), int(kept["started"]), int(kept["session"]))
        except (OSError, ValueError, TypeError, KeyError):
            return default


def identity(pid: int) -> tuple[int, int, int]:
    """Process group, session, and start in clock ticks since boot, which with the pid names a process for ever.

    -1 each where there is none.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return int(fields[2]), int(fields[3]), int(fields[19])
    except (OSError, IndexError, ValueError):
        return -1, -1, -1
