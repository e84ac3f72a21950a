"""Logger binaries, `binary:///PATH?KEY=VALUE`: started with a process's output on descriptors 3 and 4.

The protocol is containerd's: the query's keys and values are arguments, CONTAINER_ID and CONTAINER_NAMESPACE are in the
environment, and the logger closes descriptor 5, or writes to it, when it is ready.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable, Mapping
from urllib.parse import parse_qsl, urlsplit

from intermodal_core.errors import DeadlineExceeded, FailedPrecondition, IntermodalError, InvalidArgument, from_os_error

from intermodal_shim.loop import Loop
from intermodal_shim.sinks import PipeSink, Sink

__all__ = ["Logger"]

READY_WITHIN = 10.0
_SETTLE = 0.005  # seconds between a descriptor's end and the knowledge that its process has ended


class Logger:
    """One logger process. `stdout` and `stderr` are its sinks; `on_end` is called when it has ended.

    `ready(error)` is called once: with None when it reads, else with why it does not. Raises the error by meaning when it
    cannot be started.
    """

    def __init__(
        self,
        loop: Loop,
        uri: str,
        env: Mapping[bytes, bytes],
        ready: Callable[[IntermodalError | None], object],
        on_end: Callable[[], object],
    ) -> None:
        parts = urlsplit(uri)
        if parts.netloc or not parts.path.startswith("/"):
            raise InvalidArgument(f"{uri} is no logger; write binary:///PATH?KEY=VALUE")
        self._loop = loop
        self._uri = uri
        self._ready: Callable[[IntermodalError | None], object] | None = ready
        self._on_end = on_end
        arguments = [word for pair in parse_qsl(parts.query, keep_blank_values=True) for word in pair if word]
        pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
        (out, self._out), (err, self._err), (self._watch, tell) = pipes
        self.pid = 0
        self.ended = False
        # Sources above the targets, or one dup2 would overwrite another's source.
        theirs = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (out, err, tell)]
        try:
            self.pid = loop.spawn([parts.path, *arguments], env, dict(zip((3, 4, 5), theirs, strict=True)), self._ended)
        except OSError as error:
            for fd in (self._out, self._err, self._watch):
                os.close(fd)
            raise from_os_error(error, f"starting the logger {parts.path}") from error
        finally:
            for fd in (*theirs, out, err, tell):
                os.close(fd)
        os.set_blocking(self._out, False)
        os.set_blocking(self._err, False)
        loop.add_reader(self._watch, self._closed)
        late = DeadlineExceeded(f"{uri} was not ready within {READY_WITHIN:g} s: it has to close descriptor 5")
        self._timer = loop.call_later(READY_WITHIN, lambda: self._tell(late))

    def stdout(self) -> Sink:
        """The sink that is its descriptor 3; to be taken once, as is `stderr`."""
        return PipeSink(self._out, hold=True)

    def stderr(self) -> Sink:
        """The sink that is its descriptor 4."""
        return PipeSink(self._err, hold=True)

    def kill(self) -> None:
        """End it, if it has not ended."""
        if not self.ended:
            os.kill(self.pid, signal.SIGKILL)

    def _closed(self) -> None:
        """It is ready, unless it closed the descriptor by ending."""
        self._loop.remove_reader(self._watch)
        self._loop.call_later(_SETTLE, lambda: self._tell(None))

    def _tell(self, error: IntermodalError | None) -> None:
        ready, self._ready = self._ready, None
        if ready is None:
            return
        self._loop.remove_reader(self._watch)
        os.close(self._watch)
        self._timer.cancel()
        ready(error)

    def _ended(self, status: int) -> None:
        self.ended = True
        if status:
            self._tell(FailedPrecondition(f"{self._uri} ended with status {status} before it was ready"))
        else:
            self._tell(None)
        self._on_end()
