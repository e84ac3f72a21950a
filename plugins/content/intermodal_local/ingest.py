"""One ingest on disk: a directory with `data`, the bytes so far, and `info.json`, what the writer said.

The directory counts once `info.json` is in it. It is made last when an ingest begins and removed first when one ends, so
a directory without it, or without `data`, is what a crash left over.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import msgspec
from intermodal_core.contracts.content import IngestStatus

__all__ = ["Ingest", "read_status", "remove", "step", "sync_directory"]

_CHUNK = 1 << 20


class _Info(msgspec.Struct, frozen=True):
    ref: str
    total: int
    expected: str
    started_at: int


class Ingest:
    """An ingest open for writing. Not for use by two threads at once. Methods raise OSError."""

    def __init__(self, directory: Path, ref: str, total: int, expected: str, started_at: int) -> None:
        """Make the ingest, or resume the one that is there with what `total` and `expected` say anew."""
        self.directory = directory
        self.ref, self.total, self.expected, self.started_at = ref, total, expected, started_at
        self.offset = 0
        self._hash = hashlib.sha256()
        try:
            step("ingest-directory")
            directory.mkdir(mode=0o700, exist_ok=True)
            step("ingest-data")
            self._descriptor = os.open(directory / "data", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except BaseException:
            self._forget_new()
            raise
        try:
            self._rehash(os.fstat(self._descriptor).st_size)
            self._record()
        except BaseException:
            self.close()
            self._forget_new()
            raise

    def append(self, data: bytes) -> None:
        """Write all of `data` at the end, or nothing."""
        view, position = memoryview(data), self.offset
        step("append")
        try:
            while view:
                written = os.pwrite(self._descriptor, view, position)
                view, position = view[written:], position + written
        except OSError:
            os.ftruncate(self._descriptor, self.offset)
            raise
        self._hash.update(data)
        self.offset = position

    def truncate(self, size: int) -> None:
        """Cut to `size` bytes."""
        if size == self.offset:
            return
        step("truncate")
        os.ftruncate(self._descriptor, size)
        self._rehash(size)

    def digest(self) -> str:
        """The digest of the bytes so far."""
        return f"sha256:{self._hash.hexdigest()}"

    def publish(self, blob: Path) -> os.stat_result:
        """Sync the bytes and rename them to `blob`; the rest of the ingest stays until `remove`."""
        os.utime(self._descriptor)
        step("sync")
        os.fsync(self._descriptor)
        step("publish")
        os.rename(self.directory / "data", blob)
        step("sync-blobs")
        sync_directory(blob.parent)
        return os.fstat(self._descriptor)

    def status(self) -> IngestStatus:
        """As of now."""
        updated = os.fstat(self._descriptor).st_mtime_ns
        return IngestStatus(self.ref, self.offset, self.total, self.expected, self.started_at, updated, self.digest())

    @property
    def published(self) -> bool:
        """Whether the bytes are a blob already."""
        return not (self.directory / "data").exists()

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)

    def _rehash(self, size: int) -> None:
        self._hash = hashlib.sha256()
        self.offset = 0
        while self.offset < size:
            data = os.pread(self._descriptor, min(_CHUNK, size - self.offset), self.offset)
            if not data:
                break
            self._hash.update(data)
            self.offset += len(data)

    def _record(self) -> None:
        info = _Info(self.ref, self.total, self.expected, self.started_at)
        partial = self.directory / "info.json.partial"
        step("ingest-write-info")
        partial.write_bytes(msgspec.json.encode(info))
        step("ingest-info")
        os.rename(partial, self.directory / "info.json")

    def _forget_new(self) -> None:
        """After a failure to begin: a new ingest leaves nothing, an old one stays."""
        if not (self.directory / "info.json").exists():
            remove(self.directory)


def read_status(directory: Path) -> IngestStatus | None:
    """What a directory says of its ingest; None where it is none."""
    try:
        info = msgspec.json.decode((directory / "info.json").read_bytes(), type=_Info)
        data = (directory / "data").stat()
    except (OSError, msgspec.MsgspecError):
        return None
    return IngestStatus(info.ref, data.st_size, info.total, info.expected, info.started_at, data.st_mtime_ns)


def remove(directory: Path) -> None:
    """Remove an ingest, whole or half made."""
    for name in ("info.json", "info.json.partial", "data"):
        step(f"ingest-remove-{name}")
        (directory / name).unlink(missing_ok=True)
    step("ingest-remove-directory")
    try:
        directory.rmdir()
    except FileNotFoundError:
        pass


def sync_directory(directory: Path) -> None:
    """Put the names in a directory on stable storage."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def step(name: str) -> None:
    """Tell that a change of the disk comes next; what the crash tests count."""
    sys.audit("intermodal.step", f"content.{name}")
