"""What a shim that died leaves behind, and how to remove it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from typing import NamedTuple

from intermodal_core.errors import IntermodalError
from intermodal_core.spawner import Spawner
from intermodal_snapshots.mounts import unmount_all

from intermodal_shim.cgroup_remains import remove_cgroups, wait_for_end
from intermodal_shim.runtime import Options, state_of

__all__ = ["Record", "clean"]

_FILE = "shim.json"
_DELETE_WITHIN = 10.0


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
        _, session, started = _identity(pid)
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


async def clean(spawner: Spawner, id: str, bundle: str, record: Record) -> int:
    """Remove the shim, the container's processes, cgroup and mounts, and the runtime's state; returns init's pid or 0.

    Idempotent; goes on past what fails, and raises the first failure of what could not be done otherwise.
    """
    pid = await asyncio.to_thread(_init_pid, bundle)
    await asyncio.to_thread(_kill_shim, record)
    options = record.options
    if await asyncio.to_thread(state_of, options.root, id):
        try:
            await spawner.run_async([*options.command, "delete", "--force", id], timeout=_DELETE_WITHIN)
        except IntermodalError:
            pass  # the binary may be gone; what it would have done is done below
    await asyncio.to_thread(_remove_rest, id, bundle, options)
    return pid


def _remove_rest(id: str, bundle: str, options: Options) -> None:
    remove_cgroups(id, bundle)
    unmount_all(os.path.join(bundle, "rootfs"))
    for path in state_of(options.root, id):
        if os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)


def _kill_shim(record: Record) -> None:
    """The shim, if it lives, and the runtime commands that it had under way."""
    if not record.pid:
        return
    if _identity(record.pid)[2] not in (record.started, -1):
        return  # the number is another process's by now, so the group is gone
    _kill(record.pid, record)  # first, so that it starts no more
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        pid = int(entry.name)
        if _identity(pid)[:2] == (record.pid, record.session):
            _kill(pid, record)


def _kill(pid: int, record: Record) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if _identity(pid)[:2] == (record.pid, record.session):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            wait_for_end(pidfd)
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)


def _identity(pid: int) -> tuple[int, int, int]:
    """Process group, session, and start in clock ticks since boot, which with the pid names a process for ever.

    -1 each where there is none.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return int(fields[2]), int(fields[3]), int(fields[19])
    except (OSError, IndexError, ValueError):
        return -1, -1, -1


def _init_pid(bundle: str) -> int:
    try:
        with open(os.path.join(bundle, "init.pid"), encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0
