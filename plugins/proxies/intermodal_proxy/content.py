"""A content store behind a socket."""

from __future__ import annotations

import os
import queue
import secrets
import stat
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from intermodal_api.containerd.services import content_pb2 as pb
from intermodal_core.contracts.content import BlobInfo, IngestStatus
from intermodal_core.errors import (
    AlreadyExists,
    IntermodalError,
    InvalidArgument,
    NotFound,
    OutOfRange,
    Unavailable,
    Unimplemented,
    from_os_error,
)
from intermodal_oci.references import validate_digest
from intermodal_wire.client import Client
from intermodal_wire.reading import CONTENT
from intermodal_wire.values import nanoseconds

__all__ = ["ProxyContent"]

_PIECE = 4 << 20  # of data in one message


class ProxyContent:
    """Implements `intermodal_core.contracts.content` by `containerd.services.content.v1.Content` at `address`.

    `incoming` is a directory for files on their way to or from the plugin. A call gets `timeout` seconds.
    """

    def __init__(
        self, address: str, incoming: Path, headers: Mapping[str, str] | None = None, timeout: float = 0
    ) -> None:
        self._client = Client(address, headers, timeout)
        self._incoming = incoming
        self._lock = threading.Lock()
        self._open: dict[str, _Writer] = {}
        incoming.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in incoming.iterdir():
            left.unlink()

    def info(self, digest: str) -> BlobInfo:
        """[C4]."""
        return _blob(self._call("Info", pb.InfoRequest(digest=_valid(digest))).info)

    def open(self, digest: str) -> int:
        """[C5] A file of ours with the bytes, which nobody else can see."""
        fd = os.open(self._incoming, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
        try:
            for answer in self._client.each(CONTENT, "Read", pb.ReadContentRequest(digest=_valid(digest))):
                _write(fd, answer.data)
            os.lseek(fd, 0, os.SEEK_SET)
            return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(fd)

    def walk(self) -> Iterator[BlobInfo]:
        """[C6]."""
        answers = self._client.stream(CONTENT, "List", pb.ListContentRequest())
        return (_blob(info) for answer in answers for info in answer.info)

    def delete(self, digest: str) -> None:
        """[C7]."""
        self._call("Delete", pb.DeleteContentRequest(digest=_valid(digest)))

    def begin(self, ref: str, total: int = 0, expected: str = "") -> IngestStatus:
        """[C8]."""
        if not ref:
            raise InvalidArgument("an ingest needs a ref; give it a name of your choosing")
        if total < 0:
            raise InvalidArgument(f"ingest {ref}: the total {total} is negative")
        with self._lock:
            if ref in self._open:
                raise Unavailable(f"ingest {ref} is open for another writer; wait for it or use another ref")
            self._open[ref] = writer = _Writer(self._client, ref, total, expected)
        try:
            writer.stat()
            return self.status(ref)
        except BaseException:
            self._forget(ref)
            raise

    def append(self, ref: str, data: bytes, offset: int = -1) -> int:
        """[C9]."""
        writer = self._writer(ref)
        if offset >= 0 and offset != writer.offset:
            raise OutOfRange(f"ingest {ref} is at offset {writer.offset}, not {offset}; go on from there")
        view = memoryview(data)
        while view:
            writer.write(bytes(view[:_PIECE]))
            view = view[_PIECE:]
        return writer.offset

    def truncate(self, ref: str, size: int) -> None:
        """[C10] To nothing: the service has no other. Raises Unimplemented for another size."""
        writer = self._writer(ref)
        if not 0 <= size <= writer.offset:
            raise OutOfRange(f"ingest {ref} has {writer.offset} bytes and cannot be cut to {size}")
        if size not in (0, writer.offset):
            raise Unimplemented(f"ingest {ref}: a content store behind a socket is cut to nothing or not at all")
        if size == 0 and writer.offset:
            self._forget(ref)
            self._call("Abort", pb.AbortRequest(ref=ref))
            with self._lock:
                self._open[ref] = writer = _Writer(self._client, ref, writer.total, writer.expected)
            writer.stat()

    def commit(self, ref: str, size: int = 0, expected: str = "") -> BlobInfo:
        """[C11]."""
        writer = self._writer(ref)
        try:
            digest = writer.commit(size, expected)
        except AlreadyExists:
            self._forget(ref)
            raise
        self._forget(ref)
        return self.info(digest)

    def close(self, ref: str) -> None:
        """[C12]."""
        self._forget(ref)

    def abort(self, ref: str) -> None:
        """[C13]."""
        self._forget(ref)
        self._call("Abort", pb.AbortRequest(ref=ref))

    def status(self, ref: str) -> IngestStatus:
        """[C14]."""
        status = self._call("Status", pb.StatusRequest(ref=ref)).status
        writer = self._open.get(ref)
        return _status(status, writer.stat() if writer is not None else "")

    def statuses(self) -> list[IngestStatus]:
        """[C15]."""
        answer = self._call("ListStatuses", pb.ListStatusesRequest())
        return [_status(status, "") for status in answer.statuses]

    def ingest_path_for(self, size: int) -> str:
        """[C16] A directory of ours; the bytes go to the plugin at `adopt`."""
        return str(self._incoming)

    def adopt(self, path: str, digest: str, size: int) -> BlobInfo:
        """[C17]."""
        validate_digest(digest)
        try:
            with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb") as file:
                found = os.fstat(file.fileno())
                if not stat.S_ISREG(found.st_mode) or found.st_size != size:
                    raise InvalidArgument(f"adopt {path}: it is no file of {size} bytes ({found.st_size} are there)")
                blob = self._send(file, digest, size)
        except AlreadyExists:
            os.unlink(path)
            raise
        except OSError as error:
            raise from_os_error(error, f"adopt {path} as {digest}") from error
        os.unlink(path)
        return blob

    def _send(self, file: Any, digest: str, size: int) -> BlobInfo:
        ref = f"adopt-{secrets.token_hex(8)}"
        self.begin(ref, size, digest)
        try:
            while data := file.read(_PIECE):
                self.append(ref, data)
            return self.commit(ref, size, digest)
        except BaseException:
            if ref in self._open:
                self.abort(ref)
            raise

    def _writer(self, ref: str) -> _Writer:
        writer = self._open.get(ref)
        if writer is None:
            raise NotFound(f"ingest {ref} is not open; begin it")
        return writer

    def _forget(self, ref: str) -> None:
        with self._lock:
            writer = self._open.pop(ref, None)
        if writer is not None:
            writer.close()

    def _call(self, name: str, request: Any) -> Any:
        return self._client.call(CONTENT, name, request)


class _Writer:
    """One ingest's stream. An error ends a stream and not the ingest: the next request opens another."""

    def __init__(self, client: Client, ref: str, total: int, expected: str) -> None:
        self.ref, self.total, self.expected = ref, total, expected
        self.offset = 0
        self._client = client
        self._requests: queue.SimpleQueue[pb.WriteContentRequest | None] = queue.SimpleQueue()
        self._answers: Iterator[Any] | None = None

    def stat(self) -> str:
        """The digest of the bytes so far."""
        return self._ask(pb.STAT).digest  # type: ignore[no-any-return]

    def write(self, data: bytes) -> None:
        """Add at the end."""
        if self._answers is None:
            self.stat()
        self._ask(pb.WRITE, data=data, offset=self.offset)

    def commit(self, size: int, expected: str) -> str:
        """The digest of the blob."""
        if self._answers is None:
            self.stat()
        answer = self._ask(pb.COMMIT, offset=self.offset, total=size, expected=expected)
        return answer.digest  # type: ignore[no-any-return]

    def close(self) -> None:
        """End the stream, and wait until the other side has."""
        self._requests.put(None)
        answers, self._answers = self._answers, None
        if answers is not None:
            try:
                for _ in answers:
                    pass
            except IntermodalError:
                pass

    def _ask(self, action: int, **fields: Any) -> Any:
        if self._answers is None:
            self._requests = queue.SimpleQueue()
            self._answers = self._client.each(CONTENT, "Write", iter(self._requests.get, None))
            fields = {"total": self.total, "expected": self.expected, **fields}
        self._requests.put(pb.WriteContentRequest(action=action, ref=self.ref, **fields))  # type: ignore[arg-type]
        try:
            answer = next(self._answers)
        except BaseException:
            self._requests.put(None)
            self._answers = None
            raise
        self.offset = answer.offset
        return answer


def _valid(digest: str) -> str:
    validate_digest(digest)
    return digest


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _blob(info: pb.Info) -> BlobInfo:
    return BlobInfo(info.digest, info.size, nanoseconds(info.created_at))


def _status(status: pb.Status, digest: str) -> IngestStatus:
    return IngestStatus(
        status.ref,
        status.offset,
        status.total,
        status.expected,
        nanoseconds(status.started_at),
        nanoseconds(status.updated_at),
        digest,
    )
