"""What a shim that died leaves behind, and how to remove it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from typing import Any, Protocol

from intermodal_core.errors import IntermodalError
from intermodal_snapshots.mounts import unmount_all

from intermodal_shim.cgroup_remains import remove_cgroups, wait_for_end
from intermodal_shim.record import Record, identity
from intermodal_shim.runtime import Options, state_of

__all__ = ["Runs", "clean"]

_DELETE_WITHIN = 10.0


class Runs(Protocol):
    """What `clean` needs of a spawner."""

    async def run_async(self, argv: list[str], input: bytes = b"", timeout: float = 30.0) -> Any:
        """Execute a command to its end."""


async def clean(spawner: Runs, id: str, bundle: str, record: Record) -> int:
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
    if identity(record.pid)[2] not in (record.started, -1):
        return  # the number is another process's by now, so the group is gone
    _kill(record.pid, record)  # first, so that it starts no more
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        pid = int(entry.name)
        if identity(pid)[:2] == (record.pid, record.session):
            _kill(pid, record)


def _kill(pid: int, record: Record) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if identity(pid)[:2] == (record.pid, record.session):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            wait_for_end(pidfd)
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)


def _init_pid(bundle: str) -> int:
    try:
        with open(os.path.join(bundle, "init.pid"), encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0
