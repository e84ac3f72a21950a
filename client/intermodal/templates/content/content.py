"""A content store of plain files: blobs by their digest, ingests as a file and what is known of it beside."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from intermodal_core.contracts.content import BlobInfo, IngestStatus
from intermodal_core.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutOfRange,
    Unavailable,
    from_os_error,
)

__all__ = ["SampleStore"]

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


class _About(msgspec.Struct):
    """What is kept of an ingest."""

    ref: str
    total: int
    expected: str
    started_at: int


@dataclass
class _Open:
    """An ingest that has a writer."""

    about: _About
    fd: int
    offset: int
    hash: Any


class SampleStore:
    """Implements `intermodal_core.contracts.content.ContentStore` below a directory.

    blobs/HEX is a blob; ingests/NAME.data and .json are an ingest, NAME being a digest of its ref.
    """

    def __init__(self, root: Path) -> None:
        self._blobs, self._ingests = root / "blobs", root / "ingests"
        self._blobs.mkdir(parents=True, exist_ok=True)
        self._ingests.mkdir(exist_ok=True)
        self._lock = threading.RLock()
        self._open: dict[str, _Open] = {}

    # Blobs.

    def info(self, digest: str) -> BlobInfo:
        """[C4]."""
        try:
            found = self._blob(digest).stat()
        except FileNotFoundError:
            raise NotFound(f"there is no blob {digest}") from None
        return BlobInfo(digest, found.st_size, found.st_mtime_ns)

    def open(self, digest: str) -> int:
        """[C5]."""
        try:
            return os.open(self._blob(digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound(f"there is no blob {digest}") from None

    def walk(self) -> Iterator[BlobInfo]:
        """[C6]."""
        for path in list(self._blobs.iterdir()):
            try:
                found = path.stat()
            except FileNotFoundError:
                continue  # deleted meanwhile
            yield BlobInfo(f"sha256:{path.name}", found.st_size, found.st_mtime_ns)

    def delete(self, digest: str) -> None:
        """[C7]."""
        try:
            self._blob(digest).unlink()
        except FileNotFoundError:
            raise NotFound(f"there is no blob {digest}") from None

    def ingest_path_for(self, size: int) -> str:
        """[C16]."""
        return str(self._ingests)

    def adopt(self, path: str, digest: str, size: int) -> BlobInfo:
        """[C17]."""
        target = self._blob(digest)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise from_os_error(error, f"adopt {path}") from error
        try:
            found = os.fstat(fd).st_size
            if found != size:
                raise InvalidArgument(f"{path} has {found} bytes, not {size}")
            os.fsync(fd)
        finally:
            os.close(fd)
        with self._lock:
            if target.exists():
                os.unlink(path)
                raise AlreadyExists(f"the blob {digest} is here")
            os.rename(path, target)
            _sync(self._blobs)
        return self.info(digest)

    # Ingests.

    def begin(self, ref: str, total: int = 0, expected: str = "") -> IngestStatus:
        """[C8]."""
        if not ref or total < 0:
            raise InvalidArgument("an ingest has a ref, and a total that is not negative")
        with self._lock:
            if expected and self._blob(expected).exists():
                raise AlreadyExists(f"the blob {expected} is here")
            if ref in self._open:
                raise Unavailable(f"the ingest {ref} has another writer: try again when it is done")
            data, note = self._files(ref)
            about = self._about(ref)
            if about is None:
                about = _About(ref, total, expected, time.time_ns())
                _write(note, msgspec.json.encode(about))
            elif total and about.total and total != about.total:
                raise InvalidArgument(f"the ingest {ref} was begun with a total of {about.total}, not {total}")
            elif total or expected:
                about = msgspec.structs.replace(about, total=total or about.total, expected=expected or about.expected)
                _write(note, msgspec.json.encode(about))
            fd = os.open(data, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._open[ref] = _Open(about, fd, os.fstat(fd).st_size, _hash_of(fd))
            return self.status(ref)

    def append(self, ref: str, data: bytes, offset: int = -1) -> int:
        """[C9]."""
        with self._lock:
            ingest = self._writing(ref)
            if offset not in (-1, ingest.offset):
                raise OutOfRange(f"the ingest {ref} is at {ingest.offset}, not {offset}")
            written = 0
            try:
                while written < len(data):
                    written += os.write(ingest.fd, data[written:])
            except OSError as error:
                os.ftruncate(ingest.fd, ingest.offset)
                raise from_os_error(error, f"write the ingest {ref}") from error
            ingest.hash.update(data)
            ingest.offset += len(data)
            return ingest.offset

    def truncate(self, ref: str, size: int) -> None:
        """[C10]."""
        with self._lock:
            ingest = self._writing(ref)
            if not 0 <= size <= ingest.offset:
                raise OutOfRange(f"the ingest {ref} has {ingest.offset} bytes, not {size}")
            os.ftruncate(ingest.fd, size)
            ingest.offset, ingest.hash = size, _hash_of(ingest.fd)

    def commit(self, ref: str, size: int = 0, expected: str = "") -> BlobInfo:
        """[C11]."""
        with self._lock:
            ingest = self._writing(ref)
            if expected:
                self._blob(expected)  # malformed: InvalidArgument
            size, expected = size or ingest.about.total, expected or ingest.about.expected
            digest = f"sha256:{ingest.hash.hexdigest()}"
            if size and size != ingest.offset:
                raise FailedPrecondition(f"the ingest {ref} has {ingest.offset} bytes, not {size}")
            if expected and expected != digest:
                raise FailedPrecondition(f"the ingest {ref} has the digest {digest}, not {expected}")
            if self._blob(digest).exists():
                self.abort(ref)
                raise AlreadyExists(f"the blob {digest} is here")
            os.fsync(ingest.fd)
            data, note = self._files(ref)
            os.rename(data, self._blob(digest))
            _sync(self._blobs)
            note.unlink()
            self.close(ref)
            return self.info(digest)

    def close(self, ref: str) -> None:
        """[C12]."""
        with self._lock:
            ingest = self._open.pop(ref, None)
            if ingest is not None:
                os.close(ingest.fd)

    def abort(self, ref: str) -> None:
        """[C13]."""
        with self._lock:
            if self._about(ref) is None:
                raise NotFound(f"there is no ingest {ref}")
            self.close(ref)
            for path in self._files(ref):
                path.unlink(missing_ok=True)

    def status(self, ref: str) -> IngestStatus:
        """[C14]."""
        with self._lock:
            about = self._about(ref)
            data, note = self._files(ref)
            if about is None:
                raise NotFound(f"there is no ingest {ref}")
            found = (data if data.exists() else note).stat()
            offset = found.st_size if data.exists() else 0
            digest = f"sha256:{self._open[ref].hash.hexdigest()}" if ref in self._open else ""
            updated = found.st_mtime_ns
            return IngestStatus(ref, offset, about.total, about.expected, about.started_at, updated, digest)

    def statuses(self) -> list[IngestStatus]:
        """[C15]."""
        with self._lock:
            notes = [msgspec.json.decode(path.read_bytes(), type=_About) for path in self._ingests.glob("*.json")]
            return [self.status(note.ref) for note in notes]

    # Inside.

    def _blob(self, digest: str) -> Path:
        match = _DIGEST.fullmatch(digest)
        if match is None:
            raise InvalidArgument(f"{digest!r} is no digest: sha256: and 64 hex digits")
        return self._blobs / match[1]

    def _files(self, ref: str) -> tuple[Path, Path]:
        name = hashlib.sha256(ref.encode()).hexdigest()
        return self._ingests / f"{name}.data", self._ingests / f"{name}.json"

    def _about(self, ref: str) -> _About | None:
        try:
            return msgspec.json.decode(self._files(ref)[1].read_bytes(), type=_About)
        except FileNotFoundError:
            return None

    def _writing(self, ref: str) -> _Open:
        if ref not in self._open:
            raise NotFound(f"the ingest {ref} is not open: begin it")
        return self._open[ref]


def _hash_of(fd: int) -> Any:
    found = hashlib.sha256()
    offset = 0
    while piece := os.pread(fd, 1 << 20, offset):
        found.update(piece)
        offset += len(piece)
    return found


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all."""
    new = path.with_suffix(".new")
    new.write_bytes(data)
    new.rename(path)


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
