"""A container's log for one client: descriptors of its files, and while it is followed, of those that come."""

from __future__ import annotations

import asyncio
import os

from intermodal_core.contracts.managers.tasks import Composite, Tasks
from intermodal_core.errors import NotFound, from_os_error
from intermodal_core.syscalls import IN_CREATE, IN_MODIFY, IN_MOVED_TO, inotify

from intermodal_control.server import Call

__all__ = ["send_logs"]


async def send_logs(call: Call, container: str, follow: bool, containers: Composite, tasks: Tasks) -> None:
    """Send the log's files, oldest first, each opened for reading; returns once the container has ended or at once.

    With `follow` an inotify descriptor of their directory comes first, so that the client is woken by the kernel. It
    sends `reopen` when a file came into the directory, and gets the one that is being written now.
    """
    paths = await containers.logs(call.scope, container)
    if follow and paths:
        await _send(call, "watch", inotify(os.path.dirname(paths[-1]), IN_MODIFY | IN_CREATE | IN_MOVED_TO))
    for path in paths:
        await _send(call, "log", _open(path))
    if not follow or not paths:
        return
    ending = asyncio.create_task(_end(call, container, containers, tasks))
    reading = asyncio.create_task(call.lines.get())
    try:
        while not ending.done():
            await asyncio.wait({ending, reading}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                line = reading.result()
                if line is None:
                    return
                if line.reopen:
                    await _send(call, "rotated", _open(paths[-1]))
                reading = asyncio.create_task(call.lines.get())
        ending.result()
        await call.event({"ended": True})
    finally:
        ending.cancel()
        reading.cancel()
        await asyncio.gather(ending, reading, return_exceptions=True)


async def _end(call: Call, container: str, containers: Composite, tasks: Tasks) -> None:
    """Return when the container runs no more."""
    view = await containers.get(call.scope, container)
    if view.status in ("running", "paused"):
        try:
            await tasks.wait(call.scope, view.id)
        except NotFound:  # it has ended and been removed meanwhile
            return


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise from_os_error(error, "opening a log") from error


async def _send(call: Call, what: str, descriptor: int) -> None:
    try:
        await call.event({what: True}, [descriptor])
    finally:
        os.close(descriptor)
