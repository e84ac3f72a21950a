"""The pumps: a process's output to its sinks, and input to a process. Nothing here waits."""

from __future__ import annotations

import array
import fcntl
import os
import stat
import termios
from collections.abc import Callable

from intermodal_shim.loop import Loop, Timer
from intermodal_shim.sinks import PipeSink, Sink, reopen

__all__ = ["Input", "Output"]

_CHUNK = 64 << 10
_BIG = 1 << 20
_MANY_CHUNKS = 64
_SPLICE = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
#: After the process has ended, who still holds its output open is given this long before its sinks are closed.
GRACE = 0.5
#: Once the process is to be deleted, a full sink must take something within this time or loses the rest.
DEADLINE = 1.0


class Output:
    """Moves what can be read from `source` (a pipe, or a terminal's master) to the sinks; it owns both.

    With one pipe as only sink the bytes stay in the kernel. Without a sink they are read and dropped, or, with
    `wait_for_sink`, left where they are until the first sink is attached. `on_end` is called once the sinks are closed: all
    was written that could be.

    It is in one of two states: reading, or blocked on a sink that is full.
    """

    def __init__(
        self,
        loop: Loop,
        source: int,
        sinks: list[Sink],
        on_end: Callable[[], object],
        *,
        wait_for_sink: bool = False,
    ) -> None:
        self._loop = loop
        self._source = source
        self._sinks = sinks
        self._on_end = on_end
        self._splice = True
        self._waiting = wait_for_sink and not sinks
        self._blocked: Sink | None = None
        self._taken = 0  # bytes, from the source
        self._progress = 0  # grows with whatever is moved
        self._last = -1  # of `_taken`, once the process has ended
        self._chunks = 0
        self._read_size = _CHUNK
        self._at_end = False
        self._timer: Timer | None = None
        self.ended = False
        os.set_blocking(source, False)
        if not self._waiting:
            loop.add_reader(source, self._readable)

    @property
    def sinks(self) -> list[Sink]:
        """Where it goes."""
        return self._sinks

    def attach(self, sink: Sink) -> None:
        """Add a sink; it gets what is read from now on. Closed at once when the output has ended."""
        if self.ended:
            sink.close()
            return
        self._sinks.append(sink)
        if self._waiting:
            self._waiting = False
            self._loop.add_reader(self._source, self._readable)
            if self._last >= 0:
                self._timer = self._loop.call_later(GRACE, self._finish_at_last)

    def catch_up(self) -> None:
        """Move what is there now, as far as the sinks take it at once."""
        end = self._taken + _available(self._source) if not self.ended else 0
        while not self.ended and not self._waiting and self._blocked is None and self._taken < end:
            self._readable()

    def process_ended(self) -> None:
        """What is in the pipe now is the end, even if something that was left behind still holds it open.

        A first sink may still come: a short process ends before whoever started it has attached. `expire` ends that wait.
        """
        if self.ended:
            return
        self._last = self._taken + _available(self._source)
        if not self._waiting:
            self._timer = self._loop.call_later(GRACE, self._finish_at_last)

    def expire(self) -> None:
        """From now on a sink that takes nothing for `DEADLINE` seconds is given up, and what it had to get lost."""
        seen = self._progress

        def check() -> None:
            if not self.ended:
                if seen == self._progress:
                    self._finish()
                else:
                    self.expire()

        if not self.ended:
            self._loop.call_later(DEADLINE, check)

    def close(self) -> None:
        """Give up at once."""
        self._finish()

    def _readable(self) -> None:
        sinks = self._sinks
        if self._splice and len(sinks) == 1 and type(sinks[0]) is PipeSink and sinks[0].hold:
            self._move(sinks[0])
            return
        try:
            data = os.read(self._source, self._read_size)
        except BlockingIOError:
            return
        except OSError:  # a terminal whose last user is gone
            data = b""
        if not data:
            self._end_of_source()
            return
        self._taken += len(data)
        self._progress += 1
        if len(data) == _CHUNK:
            self._full_chunk(-1)
        for sink in sinks:
            sink.write(data)
        self._block_if_full()

    def _move(self, sink: Sink) -> None:
        try:
            moved = os.splice(self._source, sink.fd, 1 << 20, flags=_SPLICE)
        except BlockingIOError:
            # The source had data, so the sink is full; or the sink had room, so the source is empty.
            if self._blocked is None:
                self._block(sink)
            else:
                self._unblock()
            return
        except BrokenPipeError:
            sink.broken = True
            self._unblock()
            return
        except OSError:  # no pipe at one of the ends
            self._splice = False
            self._unblock()
            return
        if not moved:
            self._end_of_source()
            return
        self._taken += moved
        self._progress += 1
        if moved >= _CHUNK:
            self._full_chunk(sink.fd)
        if self._blocked is not None:
            self._unblock()

    def _full_chunk(self, sink: int) -> None:
        """Whoever writes much gets bigger pipes, which hold memory only while there is something in them."""
        self._chunks += 1
        if self._chunks == _MANY_CHUNKS:
            self._read_size = _BIG
            for fd in (self._source, sink) if sink >= 0 else (self._source,):
                try:
                    fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _BIG)
                except OSError:
                    pass  # not a pipe, or over the user's limit

    def _room(self) -> None:
        sink = self._blocked
        assert sink is not None
        if sink.pending:
            left = len(sink.pending)
            sink.flush()
            self._progress += len(sink.pending) != left
            if not sink.pending:
                self._unblock()
        elif self._splice and len(self._sinks) == 1:
            self._move(sink)
        else:
            self._unblock()

    def _block(self, sink: Sink) -> None:
        self._loop.remove_reader(self._source)
        self._blocked = sink
        self._loop.add_writer(sink.fd, self._room)

    def _block_if_full(self) -> bool:
        for sink in [sink for sink in self._sinks if sink.broken]:
            self._sinks.remove(sink)
            sink.close()
        for sink in self._sinks:
            if sink.pending:
                self._block(sink)
                return True
        return False

    def _unblock(self) -> None:
        if self._blocked is not None:
            self._loop.remove_writer(self._blocked.fd)
            self._blocked = None
        if self._block_if_full():
            return
        if self._at_end:
            self._finish()
        else:
            self._loop.add_reader(self._source, self._readable)

    def _end_of_source(self) -> None:
        self._at_end = True
        self._loop.remove_reader(self._source)
        if self._blocked is None or not self._blocked.pending:
            self._finish()

    def _finish_at_last(self) -> None:
        if self._taken >= self._last and not any(sink.pending for sink in self._sinks):
            self._finish()
        else:
            self._timer = self._loop.call_later(GRACE, self._finish_at_last)

    def _finish(self) -> None:
        if self.ended:
            return
        self.ended = True
        if self._timer is not None:
            self._timer.cancel()
        if self._blocked is not None:
            self._loop.remove_writer(self._blocked.fd)
            self._blocked = None
        self._loop.remove_reader(self._source)
        for sink in self._sinks:
            sink.close()
        self._sinks = []
        if self._at_end:
            os.close(self._source)
        else:
            self._loop.add_reader(self._source, _drop, self._loop, self._source)
        self._on_end()


def _drop(loop: Loop, source: int) -> None:
    """Read and drop what a process that was left behind writes; it would else get SIGPIPE."""
    try:
        if os.read(source, _CHUNK):
            return
    except BlockingIOError:
        return
    except OSError:
        pass
    loop.remove_reader(source)
    os.close(source)


def _available(fd: int) -> int:
    """Bytes that can be read now."""
    count = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, count)
    return count[0]


class Input:
    """Feeds `target`, the write end that keeps a process's stdin open, from attached descriptors; it owns all.

    With a terminal, `target` is the master, which is not closed: the end of input is the character for it,
    and more may follow.
    """

    def __init__(self, loop: Loop, target: int, terminal: bool = False) -> None:
        self._loop = loop
        self._target = target
        self._terminal = terminal
        self._sources: dict[int, bool] = {}
        self._pending: bytes | memoryview = b""
        self._closing = False
        self.closed = False
        os.set_blocking(target, False)

    def attach(self, fd: int) -> None:
        """Read from somebody's `fd`, which it takes, leaving its blocking mode as it is.

        Its end is the input's; a terminal's user who goes away ends nothing.
        """
        mode = os.fstat(fd).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            fd = reopen(fd, os.O_RDONLY)
        self.feed(fd, ends=not self._terminal)

    def feed(self, fd: int, ends: bool = True) -> None:
        """Read from `fd`, which it takes, until its end, which is that of the input if it `ends` it."""
        if self.closed or self._closing:
            os.close(fd)
            return
        self._sources[fd] = ends
        if not self._pending:
            self._read_again(fd)

    def end(self) -> None:
        """No more input will come; what was taken is still delivered."""
        self._closing = True
        for fd in list(self._sources):
            self._drop(fd)
        if not self._pending:
            self._end_now()

    def close(self) -> None:
        """The process has ended."""
        self._pending = b""
        for fd in list(self._sources):
            self._drop(fd)
        if not self.closed:
            self._loop.remove_writer(self._target)
            self.closed = True
            if not self._terminal:
                os.close(self._target)

    def _end_now(self) -> None:
        if self.closed:
            return
        if self._terminal:
            try:
                os.write(self._target, b"\x04")
            except OSError:
                pass
        else:
            self.close()

    def _read_again(self, fd: int) -> None:
        try:
            self._loop.add_reader(fd, self._readable, fd)
        except PermissionError:  # a regular file is always readable
            self._loop.call_later(0, lambda: self._readable(fd))

    def _readable(self, fd: int) -> None:
        if fd not in self._sources or self._pending:
            return
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            ends = self._sources[fd]
            self._drop(fd)
            if ends:
                self.end()
            return
        self._pending = data
        if not self._flush():
            for source in self._sources:
                self._loop.remove_reader(source)
            self._loop.add_writer(self._target, self._room)
        elif not self._loop.reading(fd):
            self._read_again(fd)

    def _room(self) -> None:
        if not self._flush():
            return
        self._loop.remove_writer(self._target)
        if self._closing:
            self._end_now()
        for source in self._sources:
            self._read_again(source)

    def _flush(self) -> bool:
        try:
            while self._pending:
                written = os.write(self._target, self._pending)
                self._pending = memoryview(self._pending)[written:]
        except BlockingIOError:
            return False
        except OSError:
            pass  # nobody reads it any more
        self._pending = b""
        return True

    def _drop(self, fd: int) -> None:
        del self._sources[fd]
        self._loop.remove_reader(fd)
        os.close(fd)
