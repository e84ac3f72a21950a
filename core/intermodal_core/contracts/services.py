"""Services: what the daemon offers to the world, such as an API on a socket.

A service translates: it asks managers (`requires`, `Context.get`) and keeps no state of its own. Enabled services are made
ready at the daemon's start and ended, in reverse order, before the managers that they use. They live on the daemon's loop, in the
daemon's process: `asyncio` is the way to wait for anything.

Life cycle: the plugin's factory makes it, on a thread -> `__aenter__`, on the loop -> it serves -> `__aexit__`, on the loop.
`Context.registry.idle.busy` is entered around whatever the daemon must not end for, where it ends by itself when idle.

A socket of a service lies beside the daemon's own: `Context.address` and a suffix, with the mode and owner that the config
gives (`Context.registry.config.core`); or in `Context.state_dir()`.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol, runtime_checkable

__all__ = ["VERSION", "Service"]

VERSION = 1


@runtime_checkable
class Service(Protocol):
    """An asynchronous context manager that serves while it is entered.

    [L1] Making it begins nothing: no socket, file descriptor, task, thread or process is there before `__aenter__`.
    [L2] It does not hold up the loop: whatever takes longer than a few milliseconds is awaited or done on a thread.
    """

    async def __aenter__(self) -> Any:
        """[L3] Begin to serve; when this returns, a client is answered.

        Leftovers of one that was killed, such as its socket, are not in the way. On an error, raised by meaning, nothing that was
        begun remains.
        """

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """[L4] End: refuse what is new, let what is under way end for a while, which is shorter than the daemon's `stop_deadline`.

        Then nothing is left of what it began: sockets and their paths, descriptors, tasks, threads, processes. It can be made and
        entered again at once.
        """
