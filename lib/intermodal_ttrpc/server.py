"""An asyncio server: each call is a task."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message
from intermodal_core.errors import Cancelled, DeadlineExceeded, IntermodalError

from intermodal_ttrpc.channel import bind
from intermodal_ttrpc.dispatch import Call, Listener, Services

__all__ = ["Call", "Server", "Services", "bind"]

_log = logging.getLogger(__name__)


class Server(Listener):
    """Serves `services` ("package.Service" -> method -> (request type, async handler)) on a listening unix socket.

    A handler is awaited as `handler(request, call)`; `call.metadata` is a dict, `call.fds` the descriptors that came
    along. The caller's timeout ends it (DEADLINE_EXCEEDED). To be made on a running asyncio loop; `bind(path)` makes a socket.
    """

    def __init__(self, sock: socket.socket, services: Services) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        super().__init__(sock, asyncio.get_running_loop(), services)

    def invoke(self, handler: Callable[..., Any], request: Message, call: Call) -> None:
        """Start a task for the call."""
        task = asyncio.get_running_loop().create_task(self._run(handler, request, call))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Stop listening, cancel what runs, end all connections."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=5)
        self.close()

    async def _run(self, handler: Callable[..., Any], request: Message, call: Call) -> None:
        try:
            async with asyncio.timeout(call.timeout or None):
                answer = await handler(request, call)
        except TimeoutError:
            call.fail(DeadlineExceeded(f"{call.service}/{call.method}: not done within {call.timeout:g} s"))
        except asyncio.CancelledError:
            call.fail(Cancelled(f"{call.service}/{call.method}: the server stops"))
            raise
        except Exception as error:
            if not isinstance(error, IntermodalError):
                _log.exception("%s/%s", call.service, call.method)
            call.fail(error)
        else:
            call.reply(answer)
