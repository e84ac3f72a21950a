"""A content store in plain files.

    blobs/sha256/HEX        a blob; its modification time is its creation
    ingests/HASH OF REF/    an ingest (see `ingest`)
    incoming/               files on their way to `adopt`

A blob gets its name by rename(2), after its bytes and before the call returns its directory were synced.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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

from intermodal_local.ingest import Ingest, read_status, remove, step, sync_directory

__all__ = ["Store"]

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")


class Store:
    """The store below `root`, made where there is none. Implements `intermodal_core.contracts.content`.

    All methods may be called from several threads. One process at a time may use a root: what an earlier one left half
    made is removed here.
    """

    def __init__(self, root: Path | str) -> None:
        self._blobs = Path(root) / "blobs" / "sha256"
        self._ingests = Path(root) / "ingests"
        self._incoming = Path(root) / "incoming"
        #: None while an ingest is being begun.
        self._open: dict[str, Ingest | None] = {}
        self._lock = threading.Lock()
        with _meaning(f"open the content store {root}"):
            for directory in (self._blobs, self._ingests, self._incoming):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            sync_directory(self._blobs.parent)
            sync_directory(self._ingests.parent)
            self._sweep()

    def info(self, digest: str) -> BlobInfo:
        """[C4]."""
        with _meaning(f"find the blob {digest}"):
            return _blob_info(digest, self._blob(digest).stat())

    def open(self, digest: str) -> int:
        """[C5]."""
        with _meaning(f"open the blob {digest}"):
            return os.open(self._blob(digest), os.O_RDONLY | os.O_CLOEXEC)

    def walk(self) -> Iterator[BlobInfo]:
        """[C6]."""
        with _meaning(f"list the blobs in {self._blobs}"), os.scandir(self._blobs) as entries:
            for entry in entries:
                try:
                    status = entry.stat()
                except FileNotFoundError:
                    continue
                yield _blob_info(f"sha256:{entry.name}", status)

    def delete(self, digest: str) -> None:
        """[C7]."""
        with _meaning(f"delete the blob {digest}"):
            step("delete")
            self._blob(digest).unlink()
            step("sync-blobs")
            sync_directory(self._blobs)

    def begin(self, ref: str, total: int = 0, expected: str = "") -> IngestStatus:
        """[C8]."""
        if not ref:
            raise InvalidArgument("an ingest needs a ref; give it a name of your choosing")
        if total < 0:
            raise InvalidArgument(f"ingest {ref}: the total {total} is negative")
        if expected and self._blob(expected).exists():
            raise AlreadyExists(f"ingest {ref}: the blob {expected} is here already")
        directory = self._directory(ref)
        with self._lock:
            if ref in self._open:
                raise Unavailable(f"ingest {ref} is open for another writer; wait for it or use another ref")
            self._open[ref] = None
        try:
            with _meaning(f"begin the ingest {ref}"):
                old = read_status(directory)
                if old is not None and old.total and total and old.total != total:
                    raise InvalidArgument(f"ingest {ref} was begun with a total of {old.total} bytes, not {total}")
                if old is None:
                    ingest = Ingest(directory, ref, total, expected, time.time_ns())
                else:
                    ingest = Ingest(directory, ref, total or old.total, expected or old.expected, old.started_at)
        except BaseException:
            with self._lock:
                del self._open[ref]
            raise
        with self._lock:
            self._open[ref] = ingest
        return ingest.status()

    def append(self, ref: str, data: bytes, offset: int = -1) -> int:
        """[C9]."""
        ingest = self._writer(ref)
        if offset >= 0 and offset != ingest.offset:
            raise OutOfRange(f"ingest {ref} is at offset {ingest.offset}, not {offset}; go on from there")
        with _meaning(f"write to the ingest {ref}"):
            ingest.append(data)
        return ingest.offset

    def truncate(self, ref: str, size: int) -> None:
        """[C10]."""
        ingest = self._writer(ref)
        if not 0 <= size <= ingest.offset:
            raise OutOfRange(f"ingest {ref} has {ingest.offset} bytes and cannot be cut to {size}")
        with _meaning(f"truncate the ingest {ref}"):
            ingest.truncate(size)

    def commit(self, ref: str, size: int = 0, expected: str = "") -> BlobInfo:
        """[C11]."""
        ingest = self._writer(ref)
        digest, wanted, length = ingest.digest(), expected or ingest.expected, size or ingest.total
        if wanted:
            self._blob(wanted)
        if length and length != ingest.offset:
            raise FailedPrecondition(
                f"ingest {ref} has {ingest.offset} bytes, not {length}; write the rest or abort it"
            )
        if wanted and wanted != digest:
            raise FailedPrecondition(f"ingest {ref} has the digest {digest}, not {wanted}; abort it and write it again")
        blob = self._blob(digest)
        with _meaning(f"commit the ingest {ref} as {digest}"):
            try:
                status = None if blob.exists() else ingest.publish(blob)
            except OSError:
                if ingest.published:
                    # Not synced, so not promised; but no writer may reach a blob.
                    self._forget(ref)
                    remove(ingest.directory)
                raise
            self._forget(ref)
            remove(ingest.directory)
        if status is None:
            raise AlreadyExists(f"ingest {ref}: the blob {digest} is here already")
        return _blob_info(digest, status)

    def close(self, ref: str) -> None:
        """[C12]."""
        self._forget(ref)

    def abort(self, ref: str) -> None:
        """[C13]."""
        directory = self._directory(ref)
        if not self._forget(ref) and read_status(directory) is None:
            raise NotFound(f"there is no ingest {ref}")
        with _meaning(f"abort the ingest {ref}"):
            remove(directory)

    def status(self, ref: str) -> IngestStatus:
        """[C14]."""
        ingest = self._open.get(ref)
        if ingest is not None:
            return ingest.status()
        status = read_status(self._directory(ref))
        if status is None:
            raise NotFound(f"there is no ingest {ref}")
        return status

    def statuses(self) -> list[IngestStatus]:
        """[C15]."""
        with _meaning(f"list the ingests in {self._ingests}"):
            found = [read_status(directory) for directory in self._ingests.iterdir()]
        return [status for status in found if status is not None]

    def ingest_path_for(self, size: int) -> str:
        """[C16]."""
        return str(self._incoming)

    def adopt(self, path: str, digest: str, size: int) -> BlobInfo:
        """[C17]."""
        blob = self._blob(digest)
        with _meaning(f"adopt {path} as {digest}"):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                found = os.fstat(descriptor)
                if not stat.S_ISREG(found.st_mode) or found.st_size != size:
                    raise InvalidArgument(f"adopt {path}: it is no file of {size} bytes ({found.st_size} are there)")
                if found.st_dev != self._blobs.stat().st_dev:
                    raise InvalidArgument(f"adopt {path}: it is on another filesystem; write it to {self._incoming}")
                if blob.exists():
                    step("adopt-drop")
                    os.unlink(path)
                    raise AlreadyExists(f"the blob {digest} is here already")
                os.utime(descriptor)
                step("sync")
                os.fsync(descriptor)
                step("publish")
                os.rename(path, blob)
                step("sync-blobs")
                sync_directory(self._blobs)
                return _blob_info(digest, os.fstat(descriptor))
            finally:
                os.close(descriptor)

    def _sweep(self) -> None:
        """Remove what a crash left: ingests half made or already published, files that nobody will adopt."""
        for directory in self._ingests.iterdir():
            if read_status(directory) is None:
                remove(directory)
        for path in self._incoming.iterdir():
            step("remove-incoming")
            path.unlink()

    def _blob(self, digest: str) -> Path:
        if not _DIGEST.match(digest):
            raise InvalidArgument(f"{digest!r} is no digest; it must be sha256: and 64 lower-case hex digits")
        return self._blobs / digest[7:]

    def _directory(self, ref: str) -> Path:
        # A ref is any text, longer than a file name may be.
        try:
            return self._ingests / hashlib.sha256(ref.encode()).hexdigest()
        except UnicodeEncodeError:
            raise InvalidArgument(f"the ref {ref!r} is no text; use whole Unicode characters") from None

    def _writer(self, ref: str) -> Ingest:
        ingest = self._open.get(ref)
        if ingest is None:
            raise NotFound(f"ingest {ref} is not open; begin it")
        return ingest

    def _forget(self, ref: str) -> bool:
        with self._lock:
            ingest = self._open.get(ref)
            if ingest is None:
                return False
            del self._open[ref]
        ingest.close()
        return True


@contextmanager
def _meaning(doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise from_os_error(error, doing) from error


def _blob_info(digest: str, status: os.stat_result) -> BlobInfo:
    return BlobInfo(digest, status.st_size, status.st_mtime_ns)
