"""What the zygote forks: `main` is one shim, until its containers are deleted."""

from __future__ import annotations

import gc
import os
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from google.protobuf.message import Message
from intermodal_core import syscalls
from intermodal_core.errors import AlreadyExists, NotFound
from intermodal_ttrpc.dispatch import Call, Listener

from intermodal_shim.container import Container
from intermodal_shim.events import Publisher
from intermodal_shim.loop import Loop
from intermodal_shim.process import RUNNING
from intermodal_shim.rest import Mover, divide, rest
from intermodal_shim.runtime import Options, Runtime
from intermodal_shim.service import services
from intermodal_shim.stdio import Streams

__all__ = ["PR_SET_CHILD_SUBREAPER", "REQUEST", "Shim", "main"]

#: Bytes of a shim's arguments.
REQUEST = 16 << 10

PR_SET_CHILD_SUBREAPER: Final = 36
#: Seconds from a start until a shim is found at rest; doubled as often as it is not.
REST = 1.0
_LAST_REST = 60.0
#: Seconds without a container and without a call after which it ends by itself; the daemon's Shutdown was lost.
IDLE = 30.0
#: The same once its container was deleted.
LINGER = 1.0
#: Seconds that a shim without containers goes on trying to tell its events.
FAREWELL = 3.0


def main(way: socket.socket, shim_type: type[Shim]) -> int:
    """Serve the task API on the listening unix socket that comes over `way`, with the arguments that `runtime.arguments` made."""
    gc.disable()
    pid = os.getpid()
    mover, resting, serving = divide()
    syscalls.prctl(PR_SET_CHILD_SUBREAPER, 1)
    if resting is not None:
        way.close()
        shim = rest(resting, serving)
        if shim is None:
            return 0
        services(shim)
    else:
        args, fds, _, _ = socket.recv_fds(way, REQUEST, 1, socket.MSG_CMSG_CLOEXEC)
        way.close()
        if not args:
            return 0  # none was needed any more
        sock = socket.socket(fileno=fds[0])
        shim = shim_type(args.decode(errors="surrogateescape").split("\0"), sock, pid=pid, mover=mover)
    shim.loop.take_signals()
    shim.run()
    return 0


class Shim:
    """Holds the containers, and what they share. Another runtime's is a subclass with another `container_type`."""

    container_type: type[Container] = Container

    def __init__(
        self,
        args: Sequence[str],
        sock: socket.socket,
        loop: Loop | None = None,
        pid: int = 0,
        mover: Mover | None = None,
    ) -> None:
        self.pid = pid or os.getpid()
        self._mover = mover
        self._restless = REST  # seconds until it is tried again
        self.loop = loop or Loop(self._defect)
        self.namespace, self._log_path, events, binary, root, every, systemd, no_pivot, no_keyring, *flags = args
        self.options = Options(binary, root, bool(systemd), bool(no_pivot), bool(no_keyring), tuple(flags))
        self._log = -1
        self._all_events = bool(every)
        self._events = Publisher(self.loop, events, self.namespace, self.log, self._quiet)
        self._containers: dict[str, Container] = {}
        self._removing: set[Container] = set()  # deleted for whoever asks, and not quite gone
        self._successors: dict[str, Callable[[], object]] = {}  # by name, what waits until such a one is gone
        self._when_empty: list[Callable[[], object]] = []
        self._runtimes: dict[Options, Runtime] = {}
        self._ending = False
        self._patience = IDLE
        self._listener = Listener(sock, self.loop, services(self), self._call_defect)
        self._idle = self.loop.call_later(IDLE, self._check_idle)

    def run(self) -> None:
        """Until shut down."""
        self.loop.run()

    def close(self) -> None:
        """Serve no more."""
        self._listener.close()

    def container(self, id: str) -> Container:
        """Raises NotFound."""
        try:
            return self._containers[id]
        except KeyError:
            raise NotFound(f"this shim holds no container {id}") from None

    def add(self, id: str, bundle: str, streams: Streams, options: Options) -> Container:
        """Raises AlreadyExists."""
        if id in self._containers:
            raise AlreadyExists(f"container {id} is there already")
        if options not in self._runtimes:
            self._runtimes[options] = Runtime(self.loop, options)
        container = self._containers[id] = self.container_type(self, self._runtimes[options], id, bundle, streams)
        return container

    def release(self, container: Container) -> None:
        """It is deleted, as far as anybody who asks can tell."""
        if self._containers.get(container.id) is container:
            del self._containers[container.id]
            self._removing.add(container)

    def forget(self, container: Container) -> None:
        """Nothing of it is left, or it was never made."""
        self.release(container)
        self._removing.discard(container)
        if (then := self._successors.pop(container.id, None)) is not None:
            then()
        if self._removing or self._containers:
            return
        for answer in self._when_empty:
            answer()
        self._when_empty.clear()
        self._patience = LINGER
        self.loop.call_later(LINGER, self._check_idle)

    def when_free(self, id: str, then: Callable[[], object]) -> None:
        """Call `then` once the runtime has closed its books on the last container of that name: now, where there is none."""
        if any(container.id == id for container in self._removing):
            self._successors[id] = then
        else:
            then()

    def task_pid(self, id: str) -> int:
        """Of the container's init; 0 for none."""
        container = self._containers.get(id)
        return container.init.pid if container else 0

    def publish(self, topic: str, event: Message, always: bool = False) -> None:
        """Tell the daemon; without `always` only where it wants all events."""
        if always or self._all_events:
            self._events.publish(topic, event)

    def shutdown(self, answer: Callable[[], object]) -> None:
        """Answer, and end, once the containers that are deleted are gone; one that is not keeps the shim.

        The events have some seconds to be told.
        """
        if self._removing and not self._containers:
            self._when_empty.append(lambda: self.shutdown(answer))
            return
        answer()
        if self._containers or self._ending:
            return
        self._ending = True
        if self._events.idle:
            self.loop.call_later(0, self.loop.stop)
        else:
            self.loop.call_later(FAREWELL, self.loop.stop)

    def rest_soon(self) -> None:
        """Move to the first process once the containers run and nothing is under way."""
        mover, self._mover = self._mover, None
        if mover is not None:
            self.loop.call_later(self._restless, partial(self._rest, mover))

    def _rest(self, mover: Mover) -> None:
        if self._containers and all(container.init.status == RUNNING for container in self._containers.values()):
            self._idle.cancel()  # there are containers: nothing to look for
            mover.move(self, self.loop)
        self._restless = min(2 * self._restless, _LAST_REST)
        self._mover = mover
        self.rest_soon()

    def log(self, message: str) -> None:
        """A line in the shim's own log."""
        line = f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {message}\n"
        try:
            if self._log < 0:
                # A FIFO that nobody reads must not be waited for.
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
                self._log = os.open(self._log_path, flags, 0o640)
            os.write(self._log, line.encode(errors="replace"))
        except OSError:
            pass  # a full disk must not end the container

    def _quiet(self) -> None:
        if self._ending:
            self.loop.stop()

    def _check_idle(self) -> None:
        if self._containers or self._removing:
            return
        if self._listener.channels:
            self.loop.call_later(self._patience, self._check_idle)
        else:
            self.shutdown(lambda: None)

    def _call_defect(self, call: Call, error: Exception) -> None:
        self._defect(error)

    def _defect(self, error: Exception) -> None:
        traceback, steps = error.__traceback__, []
        while traceback is not None:
            code = traceback.tb_frame.f_code
            steps.append(f"{os.path.basename(code.co_filename)}:{traceback.tb_lineno} {code.co_name}")
            traceback = traceback.tb_next
        self.log(f"defect: {type(error).__name__}: {error} [{' < '.join(reversed(steps))}]")
