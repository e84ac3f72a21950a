"""The bounded journal of events: segment files, each named after the first sequence number it may hold.

    segment := "IMEVENT1" boot-id[16] events-before(u64) frame*
    frame   := length(u32) crc32(u32) first(u64) count(u32) payload        little endian; payload: MessagePack, a batch

A batch is one frame and one write(2), so that SIGKILL loses no batch and tears none. Nothing is synced for each event: a
power failure may take the last seconds (who cannot afford that keeps a row until `EventBus.sync` returned, as the outbox does).
Then a torn tail is cut off, and numbering goes on far enough ahead that no number is given twice.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import struct
import sys
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from intermodal_core.errors import DataLoss, OutOfRange

__all__ = ["Cursor", "Event", "Journal"]

_MAGIC = b"IMEVENT1"
_HEADER = struct.Struct("<8s16sQ")
_FRAME = struct.Struct("<IIQI")
_FRAME_EVENTS = 1024  # events a frame at most: what a reader decodes at once
_SEGMENTS = 32  # parts of the whole; one is given up at a time, and one is scanned at start
_UNSYNCED = 16  # finished segments that `unsynced` still tells of
_SKIP = 1 << 24  # more numbers than a power failure can take


class Event(msgspec.Struct, frozen=True, array_like=True):
    """What happened. `sequence` grows by time of publishing; `timestamp` is in ns since 1970; `data` is encoded as
    `type_url` names it. Two events with one `id` are one event told twice.
    """

    sequence: int
    id: str
    timestamp: int
    namespace: str
    topic: str
    type_url: str
    data: bytes


class _Segment:
    __slots__ = ("before", "first", "number", "path", "size")

    def __init__(self, number: int, path: Path, first: int, before: int, size: int = _HEADER.size) -> None:
        self.number = number  # grows by one from segment to segment: shows a reader that one was dropped
        self.path = path
        self.first = first
        self.before = before  # events in all segments before this one, ever
        self.size = size  # what is written whole


class Journal:
    """The journal in `directory` (made if need be), of one process at a time.

    It keeps at most about `max_bytes` and `max_events`, giving up the oldest segment first. All but `append` and `unsynced`,
    which any thread may call, one at a time, is for one thread; cursors read meanwhile.
    """

    def __init__(
        self,
        directory: Path,
        max_bytes: int = 32 << 20,
        max_events: int = 200_000,
        log: logging.Logger | None = None,
        boot_id: bytes | None = None,
    ) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._max_bytes = max_bytes
        self._max_events = max_events
        self._log = log or logging.getLogger("intermodal.events")
        self._boot_id = boot_id or bytes.fromhex(
            Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
        )
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(list[Event]).decode
        self._fd = -1
        self._unsynced: list[int] = []
        self._failing = False
        self._count = 0  # events ever
        self._number = 0  # of the last segment made
        self._last_boot = self._boot_id
        self._stale: Path | None = None  # a segment that was never begun: its name alone carries the numbering on
        #: The next number to give. Whoever makes events takes numbers from here on, and appends them in order.
        self.next = 1
        #: The last number that was written, 0 in an empty journal.
        self.newest = 0
        self._segments = tuple(self._load())
        self._resume()

    @property
    def oldest(self) -> int:
        """The oldest number that is kept; where nothing is, the next one to come."""
        return self._segments[0].first if self._segments else self.next

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(segment.size for segment in self._segments)

    def append(self, events: Sequence[Event]) -> None:
        """Write a batch, whose numbers follow those before. Never raises for a disk's failure.

        When a batch cannot be written, all that was kept before it is given up, so that nobody takes a journal with
        a hole for a whole one; the space is free then, and the next batch is tried anew.
        """
        for at in range(0, len(events), _FRAME_EVENTS):
            part = events[at : at + _FRAME_EVENTS]
            self.next = max(self.next, part[-1].sequence + 1)
            try:
                self._write(part)
            except OSError as error:
                if not self._failing:
                    self._log.error("events are not kept, since the journal cannot be written: %s", error)
                self._failing = True
                self._forget()
            else:
                self._failing = False
                self.newest = part[-1].sequence

    def unsynced(self) -> list[int]:
        """What to sync for all that was appended to be on the disk: descriptors, the caller's from now on.

        So one thread can wait for the disk while others append.
        """
        fds, self._unsynced = self._unsynced, []
        if fds:
            fds.append(os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        if self._fd >= 0:
            fds.append(os.dup(self._fd))
        return fds

    def close(self) -> None:
        """Let go of the files. Idempotent."""
        self._finish()
        while self._unsynced:
            os.close(self._unsynced.pop())

    def _finish(self) -> None:
        """The segment at hand gets no more; it waits to be synced."""
        if self._fd >= 0:
            self._unsynced.append(self._fd)
            self._fd = -1
        while len(self._unsynced) > _UNSYNCED:  # nobody asks
            os.close(self._unsynced.pop(0))

    def cursor(self, after: int) -> Cursor:
        """A reader of what follows number `after`. Raises OutOfRange when not all of that is kept."""
        return Cursor(self, after)

    def before(self, timestamp: int) -> int:
        """The number before the first kept event that is not older than `timestamp`, in ns; `newest` where all are older."""
        starts = self._segments
        at = max(0, bisect_left(starts, timestamp, key=self._began) - 1)
        after = starts[at].first - 1 if starts else self.newest
        with contextlib.closing(self.cursor(after)) as cursor:
            while events := cursor.read():
                for event in events:
                    if event.timestamp >= timestamp:
                        return event.sequence - 1
        return self.newest

    def _began(self, segment: _Segment) -> int:
        with contextlib.closing(self.cursor(segment.first - 1)) as cursor:
            events = cursor.read()
        return events[0].timestamp if events else sys.maxsize

    def _write(self, events: Sequence[Event]) -> None:
        payload = self._encode(events)
        first, count = events[0].sequence, len(events)
        check = zlib.crc32(payload, first & 0xFFFFFFFF)
        frame = _FRAME.pack(len(payload), check, first, count) + payload
        last = self._segments[-1] if self._segments else None
        if (
            self._fd < 0
            or last is None
            or last.size + len(frame) > self._max_bytes // _SEGMENTS
            or self._count - last.before >= max(1, self._max_events // _SEGMENTS)
        ):
            last = self._rotate(first)
        written = os.write(self._fd, frame)
        if written < len(frame):
            os.ftruncate(self._fd, last.size)
            raise OSError(errno.ENOSPC, "no space left for a whole batch")
        self._count += count
        last.size += written

    def _rotate(self, first: int) -> _Segment:
        """A new segment; and what no longer has room beside it is given up."""
        self._finish()
        path = self._directory / f"{first:020d}.events"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if os.write(fd, _HEADER.pack(_MAGIC, self._boot_id, self._count)) < _HEADER.size:
            os.close(fd)
            raise OSError(errno.ENOSPC, "no space left for a new segment")
        self._fd = fd
        self._number += 1
        segment = _Segment(self._number, path, first, self._count)
        kept = [*(part for part in self._segments if part.path != path), segment]
        room = self._max_bytes - self._max_bytes // _SEGMENTS
        while len(kept) > 1 and (
            sum(part.size for part in kept) > room
            or self._count - kept[0].before > self._max_events - self._max_events // _SEGMENTS
        ):
            kept.pop(0).path.unlink(missing_ok=True)
        self._segments = tuple(kept)
        if self._stale is not None and self._stale != path:
            self._stale.unlink(missing_ok=True)
        self._stale = None
        return segment

    def _forget(self) -> None:
        """Give up all segments; but keep the name that carries the numbering on."""
        dropped = self._segments
        self._segments = ()
        self._number += 1  # readers see that something is missing
        self.close()
        for segment in dropped:
            try:
                os.truncate(segment.path, 0)
                if segment is not dropped[-1]:
                    segment.path.unlink(missing_ok=True)
            except OSError:
                continue
        try:
            self._rotate(self.next)
            for segment in dropped:
                segment.path.unlink(missing_ok=True)
        except OSError:
            self.close()

    def _load(self) -> list[_Segment]:
        """The segments that can be read, without holes between them."""
        found: list[_Segment] = []
        paths = sorted(path for path in self._directory.glob("*.events") if path.stem.isdigit())
        for path in paths:
            with path.open("rb") as file:
                header = file.read(_HEADER.size)
            self.next = int(path.stem)
            if len(header) < _HEADER.size and path == paths[-1]:
                self._stale = path
            elif len(header) < _HEADER.size or not header.startswith(_MAGIC):
                for segment in found:
                    segment.path.unlink()
                found.clear()
                path.unlink()
            else:
                _, self._last_boot, before = _HEADER.unpack(header)
                self._number += 1
                found.append(_Segment(self._number, path, self.next, before, path.stat().st_size))
        return found

    def _resume(self) -> None:
        """Cut a torn tail off the last segment, and find the next number."""
        if not self._segments:
            return
        last = self._segments[-1]
        self._count = last.before
        self.newest = last.first - 1
        size = _HEADER.size
        with last.path.open("r+b") as file:
            for first, count, end in _frames(file.read()):
                self.newest, size = first + count - 1, end
                self._count += count
            file.truncate(size)
        last.size = size
        self.next = max(self.next, self.newest + 1)
        if self._last_boot != self._boot_id:
            self.next += _SKIP
        else:
            self._fd = os.open(last.path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)


class Cursor:
    """Reads a journal onwards from a number. One user at a time."""

    def __init__(self, journal: Journal, after: int) -> None:
        self.after = after
        self._journal = journal
        self._fd = -1
        self._segment: _Segment | None = None
        self._offset = 0
        if after < journal.oldest - 1:
            raise self._gone(journal, after)
        if after >= journal.next:
            raise OutOfRange(f"event {after} has not happened yet, the newest is {journal.newest}")

    def read(self) -> list[Event]:
        """The next events, at most a frame of them; none at the journal's end (later there may be more).

        Raises OutOfRange, naming the oldest number that is kept, when the journal gave up what comes next, and DataLoss
        when the disk changed it.
        """
        while True:
            segment = self._segment
            if segment is None or self._offset >= segment.size:
                if not self._advance():
                    return []
                continue
            header = os.pread(self._fd, _FRAME.size, self._offset)
            if len(header) < _FRAME.size:
                raise self._gone(self._journal, self.after)
            length, check, first, count = _FRAME.unpack(header)
            start = self._offset + _FRAME.size
            self._offset = start + length
            if first + count - 1 <= self.after:
                continue
            payload = os.pread(self._fd, length, start)
            if zlib.crc32(payload, first & 0xFFFFFFFF) != check:
                if segment not in self._journal._segments:
                    raise self._gone(self._journal, self.after)
                raise DataLoss(f"{segment.path} is damaged at byte {start}: the events from {first} on are lost")
            events = [event for event in self._journal._decode(payload) if event.sequence > self.after]
            self.after = events[-1].sequence
            return events

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        fd, self._fd = self._fd, -1
        self._segment = None
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()

    def _advance(self) -> bool:
        """Open the next segment; False where there is none yet."""
        segments = self._journal._segments
        current = self._segment
        if current is None:
            at = bisect_right(segments, self.after + 1, key=lambda segment: segment.first) - 1
            if at < 0:
                if self.after + 1 >= self._journal.oldest:
                    return False
                raise self._gone(self._journal, self.after)
        else:
            at = next((at for at, segment in enumerate(segments) if segment.number > current.number), -1)
            if at < 0:
                if not segments:
                    self._segment = None
                return False
            if segments[at].number != current.number + 1:
                raise self._gone(self._journal, self.after)
        self.close()
        try:
            self._fd = os.open(segments[at].path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise self._gone(self._journal, self.after) from None
        self._segment = segments[at]
        self._offset = _HEADER.size
        return True

    @staticmethod
    def _gone(journal: Journal, after: int) -> OutOfRange:
        return OutOfRange(
            f"events after {after} are no longer kept, the oldest is {journal.oldest}; list anew and follow"
        )


def _frames(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(first, count, end) of each whole frame."""
    at = _HEADER.size
    while at + _FRAME.size <= len(data):
        length, check, first, count = _FRAME.unpack_from(data, at)
        at += _FRAME.size + length
        if at > len(data) or zlib.crc32(data[at - length : at], first & 0xFFFFFFFF) != check:
            return
        yield first, count, at
