"""A container's log for one client: descriptors of its files, and while it is followed, of those that come."""

from __future__ import annotations

import asyncio
import os

from intermodal_core.contracts.managers.tasks import Composite, Tasks
from intermodal_core.errors import NotFound, from_os_error
from intermodal_core.syscalls import IN_CREATE, IN_MODIFY, inotify

from intermodal_control.server import Call

__all__ = ["send_logs"]


async def send_logs(call: Call, container: str, follow: bool, containers: Composite, tasks: Tasks) -> None:
    """Send the log's files, oldest first, each opened for reading, then `listed`; with `follow` stay until it ends.

    Then an inotify descriptor of their directory comes first, so that the kernel wakes the client. It sends `reopen` when
    a file came into the directory, and gets the list anew; the list comes once more at the end.
    """

    async def listing() -> None:
        for path in await containers.logs(call.scope, container):
            try:
                await _send(call, "log", os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            except FileNotFoundError:  # renamed this moment: whoever follows is about to ask again
                continue
        await call.event({"listed": True})

    if follow:
        await _watch(call, await containers.logs(call.scope, container))
    await listing()
    if not follow:
        return
    ending = asyncio.create_task(_end(call, container, containers, tasks))
    try:
        while not ending.done():
            reading = asyncio.create_task(call.lines.get())
            await asyncio.wait({ending, reading}, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                reading.cancel()
            elif (line := reading.result()) is not None and line.reopen:
                await listing()
        ending.result()
        await listing()
    finally:
        ending.cancel()
        await asyncio.gather(ending, return_exceptions=True)


async def _end(call: Call, container: str, containers: Composite, tasks: Tasks) -> None:
    """Return when the container runs no more."""
    try:
        view = await containers.get(call.scope, container)
        if view.status in ("running", "paused"):
            await tasks.wait(call.scope, view.id)
    except NotFound:  # it has ended and been removed meanwhile
        return


async def _watch(call: Call, paths: list[str]) -> None:
    if not paths:
        await call.event({"watch": False})
        return
    try:
        watch = inotify(os.path.dirname(paths[-1]), IN_MODIFY | IN_CREATE)
    except OSError as error:
        raise from_os_error(error, "watching the log (fs.inotify.max_user_instances limits how many)") from error
    await _send(call, "watch", watch)


async def _send(call: Call, what: str, descriptor: int) -> None:
    try:
        await call.event({what: True}, [descriptor])
    finally:
        os.close(descriptor)
