"""The streams of one process: opened for its runtime command, pumped while it lives, drained at its end."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import NamedTuple

from intermodal_core.errors import FailedPrecondition, IntermodalError, Internal, InvalidArgument, from_os_error

from intermodal_shim import console
from intermodal_shim.console import ConsoleSocket
from intermodal_shim.crilog import CriLog, CriSink, open_cri_log
from intermodal_shim.logger import Logger
from intermodal_shim.loop import Loop
from intermodal_shim.runtime import ENVIRONMENT
from intermodal_shim.sinks import Sink, open_attached, open_file, open_path
from intermodal_shim.streams import DEADLINE, Input, Output

__all__ = ["ATTACH", "Stdio", "Streams"]

#: For a stream that is fed and read by Attach alone.
ATTACH = "attach://"


class Streams(NamedTuple):
    """Where a process's streams go, as its Create or Exec request says."""

    stdin: str
    stdout: str
    stderr: str
    terminal: bool


class Stdio:
    """The streams of a process of the container `identity`, its id and namespace.

    Opened by `open`; then the command is started with `fds` and `--console-socket console_path`, and `started` called at
    its good end. `process_ended` at the process's; `on_drained` is called when no output is left. `close` gives up.
    """

    def __init__(
        self, loop: Loop, streams: Streams, identity: tuple[str, str], on_drained: Callable[[], object]
    ) -> None:
        self._loop = loop
        self._streams = streams
        self._identity = identity
        self._on_drained = on_drained
        self._input: Input | None = None
        self._outputs: dict[str, Output] = {}
        self._sinks: dict[str, list[Sink]] = {}
        self._theirs: list[int] = []
        self._loggers: list[Logger] = []
        self._unready = 0
        self._console: ConsoleSocket | None = None
        self._master = -1
        self._fifo = -1  # a terminal's stdin, and the write end that keeps it open
        self._keeper = -1
        self.fds: dict[int, int] = {}

    @property
    def console_path(self) -> str:
        """For the runtime's --console-socket; "" without a terminal."""
        return self._console.path if self._console else ""

    @property
    def drained(self) -> bool:
        """Whether no output is left, and no logger at work."""
        return all(output.ended for output in self._outputs.values()) and all(x.ended for x in self._loggers)

    def open(self, bundle: str, name: str, ready: Callable[[IntermodalError | None], object]) -> None:
        """Open everything, and call `ready(None)`, or with an error; what was opened is then closed already."""
        try:
            waiting = self._open(bundle, name, ready)
        except (IntermodalError, OSError) as error:
            self.close()
            ready(error if isinstance(error, IntermodalError) else from_os_error(error, "opening the streams"))
        else:
            if not waiting:
                ready(None)

    def started(self) -> None:
        """The command has the descriptors. Raises Internal where it sent no terminal."""
        self._close_theirs()
        if self._console is None:
            return
        self._master = self._console.receive()
        self._console.close()
        self._console = None
        if self._master < 0:
            raise Internal("the runtime sent no terminal over the console socket")
        self._add_output("stdout", os.dup(self._master))
        self._input = Input(self._loop, self._master, terminal=True)
        if self._fifo >= 0:
            self._input.feed(self._fifo)
            self._fifo = -1

    def resize(self, width: int, height: int) -> None:
        """Set the terminal's size in characters."""
        if self._master < 0:
            raise FailedPrecondition("the process has no terminal")
        console.resize(self._master, width, height)

    def close_stdin(self) -> None:
        """No more input will come. A FIFO ends when its other writers, too, are gone."""
        if self._keeper >= 0:
            os.close(self._keeper)
            self._keeper = -1
        elif self._input is not None:
            self._input.end()

    def attach(self, stdin: int, stdout: int, stderr: int, hold: bool) -> None:
        """Add descriptors (-1: none), which are taken. Raises FailedPrecondition for a stream that there is not."""
        wanted = {"stdout": stdout, "stderr": -1 if self._streams.terminal else stderr}
        missing = [name for name, fd in wanted.items() if fd >= 0 and name not in self._outputs]
        if stdin >= 0 and self._input is None:
            missing.append("stdin")
        if missing:
            for fd in (stdin, stdout, stderr):
                if fd >= 0:
                    os.close(fd)
            raise FailedPrecondition(f"the process has no {' and no '.join(missing)} to attach to")
        if self._streams.terminal and stderr >= 0:
            os.close(stderr)
        for name, fd in wanted.items():
            if fd >= 0:
                self._outputs[name].attach(open_attached(fd, hold))
        if stdin >= 0 and self._input is not None:
            self._input.attach(stdin)

    def reopen_logs(self) -> None:
        """Open log files by their names again."""
        for log in self._logs():
            log.reopen()

    def catch_up(self) -> None:
        """Move what the process has written, before its end is told: a client may let go of its streams at that word."""
        for output in list(self._outputs.values()):
            output.catch_up()

    def process_ended(self) -> None:
        """Drain what is left."""
        self._close_input()
        for output in list(self._outputs.values()):
            output.process_ended()

    def expire(self) -> None:
        """From now on a stuck sink is given up after a deadline."""
        for output in self._outputs.values():
            output.expire()
        if self._loggers:
            self._loop.call_later(2 * DEADLINE, self._kill_loggers)

    def close(self) -> None:
        """Give up everything."""
        self._close_theirs()
        if self._console is not None:
            self._console.close()
            self._console = None
        self._close_input()
        for output in list(self._outputs.values()):
            output.close()
        for sinks in self._sinks.values():
            for sink in sinks:
                sink.close()
        self._sinks.clear()
        self._kill_loggers()

    def _open(self, bundle: str, name: str, ready: Callable[[IntermodalError | None], object]) -> bool:
        """Whether `ready` will be called later, by a logger."""
        streams = self._streams
        waiting = self._open_sinks(ready)
        if streams.terminal:
            self._console = ConsoleSocket(bundle, f"{name}.console")
            if streams.stdin and streams.stdin != ATTACH:
                self._fifo, self._keeper = _open_stdin(streams.stdin)
            return waiting
        if streams.stdin:
            read, write = os.pipe2(os.O_CLOEXEC) if streams.stdin == ATTACH else _open_stdin(streams.stdin)
            self._give(0, read)
            os.set_blocking(read, True)
            self._input = Input(self._loop, write)
        for number, stream in ((1, "stdout"), (2, "stderr")):
            if getattr(streams, stream):
                source, write = os.pipe2(os.O_CLOEXEC)
                self._give(number, write)
                self._add_output(stream, source)
            else:
                self._give(number, os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC))
        return waiting

    def _open_sinks(self, ready: Callable[[IntermodalError | None], object]) -> bool:
        logs: dict[str, CriLog] = {}
        loggers: dict[str, Logger] = {}
        streams = self._streams
        for stream, uri in (("stdout", streams.stdout), ("stderr", "" if streams.terminal else streams.stderr)):
            if not uri or uri == ATTACH:
                continue
            scheme, separator, path = uri.partition("://")
            if not separator:
                sink = open_path(uri)
            elif scheme == "file":
                sink = open_file(path)
            elif scheme == "cri":
                log = logs[uri] if uri in logs else logs.setdefault(uri, open_cri_log(uri))
                sink = log.sink(stream.encode())
            elif scheme == "binary":
                if uri not in loggers:
                    loggers[uri] = self._start_logger(uri, ready)
                logger = loggers[uri]
                sink = logger.stdout() if stream == "stdout" else logger.stderr()
            else:
                raise InvalidArgument(f"{uri}: an output is a path or a file://, binary:// or cri:// URI")
            self._sinks[stream] = [sink]
        return bool(loggers)

    def _start_logger(self, uri: str, ready: Callable[[IntermodalError | None], object]) -> Logger:
        def told(error: IntermodalError | None) -> None:
            self._unready -= 1
            if error is not None:
                if self._unready >= 0:
                    self._unready = -1
                    self.close()
                    ready(error)
            elif self._unready == 0:
                ready(None)

        self._unready += 1
        id, namespace = self._identity
        env = {**ENVIRONMENT, b"CONTAINER_ID": id.encode(), b"CONTAINER_NAMESPACE": namespace.encode()}
        logger = Logger(self._loop, uri, env, told, self._drained_maybe)
        self._loggers.append(logger)
        return logger

    def _add_output(self, stream: str, source: int) -> None:
        waits = getattr(self._streams, stream) == ATTACH
        sinks = self._sinks.pop(stream, [])
        self._outputs[stream] = Output(self._loop, source, sinks, self._drained_maybe, wait_for_sink=waits)

    def _give(self, number: int, fd: int) -> None:
        self.fds[number] = fd
        self._theirs.append(fd)

    def _logs(self) -> set[CriLog]:
        sinks = [sink for output in self._outputs.values() for sink in output.sinks]
        return {sink.log for sink in sinks if isinstance(sink, CriSink)}

    def _close_theirs(self) -> None:
        for fd in self._theirs:
            os.close(fd)
        self._theirs.clear()
        self.fds.clear()

    def _close_input(self) -> None:
        if self._input is not None:
            self._input.close()
        for fd in (self._fifo, self._keeper, self._master):
            if fd >= 0:
                os.close(fd)
        self._fifo = self._keeper = self._master = -1

    def _drained_maybe(self) -> None:
        if self.drained:
            self._on_drained()

    def _kill_loggers(self) -> None:
        for logger in self._loggers:
            logger.kill()


def _open_stdin(path: str) -> tuple[int, int]:
    """A FIFO's read end, and a write end that keeps it from ending. Raises the error by meaning."""
    try:
        if not stat.S_ISFIFO(os.stat(path).st_mode):
            raise InvalidArgument(f"{path} is no FIFO: make one for stdin, or leave it empty")
        read = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return read, os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            os.close(read)
            raise
    except OSError as error:
        raise from_os_error(error, "opening stdin") from error
