"""`imod logs`: the daemon opens the files, imod reads them."""

from __future__ import annotations

import os
import select
import struct
import sys
from argparse import SUPPRESS
from collections import deque

from intermodal.cli import options as values

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from typing import BinaryIO

    from intermodal.cli.channel import Call
    from intermodal.cli.main import Parser, Session

__all__ = ["LogFile", "add_arguments", "logs"]

IN_MOVED_TO = 0x080
IN_CREATE = 0x100
_EVENT = struct.Struct("iIII")


def add_arguments(command: str, parser: Parser) -> None:
    """The arguments of `imod logs`."""
    parser.usage = "imod logs [OPTIONS] CONTAINER"
    add = parser.add_argument
    add("-f", "--follow", action="store_true", help="go on until it ends")
    add("--tail", metavar="N", type=values.tail, default=-1, help="the last N lines (default: all)")
    add("-t", "--timestamps", action="store_true", help="with the time of each line")
    add("container", metavar="CONTAINER", help=SUPPRESS)


def logs(session: Session, options: argparse.Namespace) -> int:
    """`imod logs`: stdout on stdout, stderr on stderr."""
    params = {"container": options.container, "follow": options.follow}
    with session.call("containers.logs", **params) as call:
        Reader(call, Printer(options.timestamps, options.tail)).read(options.follow)
    return 0


class LogFile:
    """Entries of one file in the CRI format: time, stream, whether the line ends, and the text. Closed with it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._rest = b""
        self.inode = os.fstat(fd).st_ino

    def entries(self) -> Iterator[tuple[bytes, bytes, bool, bytes]]:
        """Those written by now; an entry half written waits for the next call."""
        while data := os.read(self._fd, 1 << 16):
            lines = (self._rest + data).split(b"\n")
            self._rest = lines.pop()
            for line in lines:
                time, stream, tag, text = (line.split(b" ", 3) + [b""] * 4)[:4]
                yield time, stream, tag.split(b":")[0] != b"P", text

    def close(self) -> None:
        """Let go of the descriptor."""
        os.close(self._fd)


class Printer:
    """Writes entries out, the last `tail` lines (-1: all) of what comes before `release`, then all."""

    def __init__(self, timestamps: bool, tail: int) -> None:
        self._timestamps = timestamps
        self._held: deque[tuple[bytes, bytes]] | None = deque(maxlen=tail) if tail >= 0 else None
        self._begun: dict[bytes, bytes] = {}

    def put(self, time: bytes, stream: bytes, whole: bool, text: bytes) -> None:
        """One entry; parts of a line are joined, each stream's by itself."""
        begun = self._begun.pop(stream, b"")
        if not begun and self._timestamps:
            begun = time + b" "
        if self._held is None and not (self._timestamps or begun):
            self._write(stream, text + b"\n" if whole else text)
        elif not whole:
            self._begun[stream] = begun + text
        elif self._held is None:
            self._write(stream, begun + text + b"\n")
        else:
            self._held.append((stream, begun + text + b"\n"))

    def release(self) -> None:
        """What was held back goes out; from now on nothing is."""
        held, self._held = self._held or (), None
        for stream, line in held:
            self._write(stream, line)
        self.flush()

    def end(self) -> None:
        """A last line without an end."""
        for stream, text in self._begun.items():
            self._write(stream, text)
        self.flush()

    def flush(self) -> None:
        """To whoever reads."""
        sys.stdout.buffer.flush()
        sys.stderr.buffer.flush()

    def _write(self, stream: bytes, data: bytes) -> None:
        output: BinaryIO = sys.stderr.buffer if stream == b"stderr" else sys.stdout.buffer
        output.write(data)


class Reader:
    """Takes the files that a call brings, in their order, to a printer."""

    def __init__(self, call: Call, printer: Printer) -> None:
        self._call = call
        self._printer = printer
        self._files: list[LogFile] = []

    def read(self, follow: bool) -> None:
        """What there is; with `follow` also what comes until the daemon says that the container has ended."""
        watch = self._call.receive()[1] if follow else []  # the kernel's, on the log's directory; none without a log
        ended = self._take()
        self._drain()
        self._printer.release()
        while not ended:
            ready, _, _ = select.select([self._call.fileno(), *watch], [], [])
            if any(fd in ready and _new_file(os.read(fd, 1 << 16)) for fd in watch):
                self._call.send(reopen=True)
            if self._call.fileno() in ready:
                ended = self._take()
            self._drain()
            self._printer.flush()
        self._printer.end()

    def _take(self) -> bool:
        """Take a list of the log's files and go on with those after the one read so far; True when the call is over."""
        files: list[LogFile] = []
        while True:
            line, descriptors = self._call.receive()
            files += map(LogFile, descriptors)
            if "result" in line or "listed" in line["event"]:
                break
        inodes = [file.inode for file in files]
        known = inodes.index(self._files[-1].inode) + 1 if self._files and self._files[-1].inode in inodes else 0
        for file in files[:known]:
            file.close()
        self._files += files[known:]
        return "result" in line or (self._call.pending() and self._take())

    def _drain(self) -> None:
        while self._files:
            for entry in self._files[0].entries():
                self._printer.put(*entry)
            if len(self._files) == 1:
                break
            self._files.pop(0).close()


def _new_file(events: bytes) -> bool:
    """Whether inotify tells of a file that came into the directory."""
    offset = 0
    while offset < len(events):
        _, mask, _, length = _EVENT.unpack_from(events, offset)
        if mask & (IN_CREATE | IN_MOVED_TO):
            return True
        offset += _EVENT.size + length
    return False
