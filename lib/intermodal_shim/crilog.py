"""Logs in the CRI's format, `TIME STREAM TAG CONTENT`, with rotation.

The format is the Kubernetes container runtime interface's: time in RFC 3339 with nanoseconds, `stdout` or `stderr`, `F` for a
full line or `P` for a part of one that goes on in the next entry.
"""

from __future__ import annotations

import os
import time
from urllib.parse import parse_qs, urlsplit

from intermodal_core.errors import InvalidArgument, from_os_error

from intermodal_shim.sinks import Sink

__all__ = ["CriLog", "CriSink", "open_cri_log"]

#: A line longer than this is written in parts, so that a reader never needs more for one entry.
MAX_LINE = 16 << 10


class CriLog:
    """A log file that both streams of a process are written to, a whole entry at a time.

    Past `size` bytes (0: never) the file becomes FILE.1, that one FILE.2 and so on; `files` are kept in all.
    """

    def __init__(self, path: str, size: int = 0, files: int = 5) -> None:
        self.path = path
        self._limit = size
        self._files = max(1, files)
        self._users = 0
        self._fd = -1
        self._size = 0
        self._second = -1
        self._stamp = b""
        self.reopen()

    def sink(self, stream: bytes) -> CriSink:
        """A sink for one stream; the file is closed with the last one."""
        self._users += 1
        return CriSink(self, stream)

    def reopen(self) -> None:
        """Open the file by its name again. Raises the error by meaning."""
        try:
            fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise from_os_error(error, "opening a log") from error
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        self._size = os.fstat(fd).st_size

    def put_whole(self, data: bytes) -> bool:
        """Append entries that come in one piece, unless the file has to be rotated amid them. Raises OSError."""
        if self._limit and self._size + len(data) > self._limit:
            return False
        self._write(data)
        return True

    def put(self, entries: list[bytes]) -> None:
        """Append entries; rotation happens between entries only. Raises OSError."""
        if not self._limit:
            self._write(b"".join(entries))
            return
        batch: list[bytes] = []
        room = self._limit - self._size
        for entry in entries:
            if room < len(entry) and (batch or self._size):
                self._write(b"".join(batch))
                batch.clear()
                self._rotate()
                room = self._limit
            batch.append(entry)
            room -= len(entry)
        self._write(b"".join(batch))

    def now(self) -> bytes:
        """The time as entries begin with it."""
        second, rest = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
        return b"%s.%09dZ" % (self._stamp, rest)

    def release(self) -> None:
        """A sink was closed."""
        self._users -= 1
        if self._users <= 0 and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.write(self._fd, view)
            self._size += written
            view = view[written:]

    def _rotate(self) -> None:
        names = [self.path, *(f"{self.path}.{number}" for number in range(1, self._files))]
        for older, newer in zip(names[:0:-1], names[-2::-1], strict=True):
            try:
                os.rename(newer, older)
            except FileNotFoundError:
                pass
        if self._files == 1:
            os.unlink(self.path)
        self.reopen()


class CriSink(Sink):
    """One stream of a log. It always has room; an unfinished line waits here for its end, or for `MAX_LINE` bytes."""

    __slots__ = ("_full", "_log", "_part", "_rest")

    def __init__(self, log: CriLog, stream: bytes) -> None:
        super().__init__(-1, False)
        self._log = log
        self._full = b" " + stream + b" F "
        self._part = b" " + stream + b" P "
        self._rest = b""

    @property
    def log(self) -> CriLog:
        """The file."""
        return self._log

    def write(self, data: bytes) -> None:
        """Write each line that is complete."""
        if self.broken:
            return
        data = self._rest + data
        end = data.rfind(b"\n")
        if end >= 0 and self._put_lines(data[:end]):
            data = data[end + 1 :]
            self._rest = b""
        lines = data.split(b"\n")
        self._rest = lines.pop()
        now = self._log.now()
        full = now + self._full
        entries: list[bytes] = []
        for line in lines:
            if len(line) > MAX_LINE:
                line = self._parts(entries, now, line)
            entries.append(b"%s%s\n" % (full, line))
        if len(self._rest) > MAX_LINE:
            self._rest = self._parts(entries, now, self._rest)
        self._put_entries(entries)

    def close(self) -> None:
        """Write what has no end of line as a part: printing it adds none."""
        if not self.broken:
            if self._rest:
                self._put_entries([self._log.now() + self._part + self._rest + b"\n"])
            self._rest = b""
            self._log.release()
        super().close()

    def _put_lines(self, data: bytes) -> bool:
        """The usual case, in few steps: no line is long and the file has room; else nothing is done."""
        position = 0
        while len(data) - position > MAX_LINE:
            position = data.rfind(b"\n", position, position + MAX_LINE) + 1
            if not position:
                return False
        start = self._log.now() + self._full
        try:
            return self._log.put_whole(b"%s%s\n" % (start, data.replace(b"\n", b"\n" + start)))
        except OSError:
            return True  # as in `_put_entries`

    def _parts(self, entries: list[bytes], now: bytes, line: bytes) -> bytes:
        """Append the parts of a long line to `entries`; returns its last, short one."""
        while len(line) > MAX_LINE:
            entries.append(b"%s%s%s\n" % (now, self._part, line[:MAX_LINE]))
            line = line[MAX_LINE:]
        return line

    def _put_entries(self, entries: list[bytes]) -> None:
        if not entries:
            return
        try:
            self._log.put(entries)
        except OSError:
            pass  # a full disk loses lines; it must not end or hold up the container


def open_cri_log(uri: str) -> CriLog:
    """The log that `cri:///PATH?size=BYTES&files=N` names; a directory means its file `0.log`.

    Raises InvalidArgument for another form, and what opening it means.
    """
    parts = urlsplit(uri)
    options = parse_qs(parts.query, keep_blank_values=True)
    unknown = options.keys() - {"size", "files"}
    if parts.netloc or not parts.path.startswith("/") or unknown:
        raise InvalidArgument(f"{uri} is no log; write cri:///PATH?size=BYTES&files=NUMBER")
    try:
        size, files = (int(options.get(name, [default])[-1]) for name, default in (("size", "0"), ("files", "5")))
    except ValueError:
        raise InvalidArgument(f"{uri}: size and files are whole numbers") from None
    path = parts.path
    if path.endswith("/") or os.path.isdir(path):
        path = os.path.join(path, "0.log")
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    except OSError as error:
        raise from_os_error(error, "making a log's directory") from error
    return CriLog(path, size, files)
