"""Content: immutable blobs, named by the digest of their bytes.

Vocabulary: a *blob* is committed and never changes. An *ingest* is a blob being written, named by a `ref` of the
writer's choosing; it survives a crash and is resumed at its offset. A store keeps no labels and knows no namespaces:
who may see a blob and how long it is kept is the store manager's business.

Life cycle: `begin(ref)` -> `append`... -> `commit(ref, size, digest)` makes the blob; `abort(ref)` drops the ingest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import msgspec

from intermodal_core.contracts.common import Fd

__all__ = ["VERSION", "BlobInfo", "ContentStore", "IngestStatus"]

VERSION = 1


class BlobInfo(msgspec.Struct, frozen=True):
    """A committed blob: size in bytes, creation time in ns since the epoch."""

    digest: str
    size: int
    created_at: int


class IngestStatus(msgspec.Struct, frozen=True):
    """An ingest: bytes taken so far (`offset`), the expected total (0: unknown) and digest ("": unknown).

    `digest` is that of the bytes so far where the ingest is open for writing, else "".
    """

    ref: str
    offset: int
    total: int
    expected: str
    started_at: int
    updated_at: int
    digest: str = ""


@runtime_checkable
class ContentStore(Protocol):
    """A store of blobs.

    [C1] A blob appears whole or not at all: after a crash at any instant, whatever `info` finds has the right bytes.
    [C2] A committed blob is on stable storage before `commit` returns.
    [C3] One ingest has one writer: a second `begin` of a ref that is open in this process raises Unavailable until
         the first is committed, aborted or closed.
    """

    def info(self, digest: str) -> BlobInfo:
        """[C4] The blob's size and time. Raises NotFound; InvalidArgument for a malformed digest."""

    def open(self, digest: str) -> Fd:
        """[C5] A file descriptor, read-only, positioned at 0, that the caller closes. Raises NotFound.

        It stays readable after the blob is deleted.
        """

    def walk(self) -> Iterator[BlobInfo]:
        """[C6] Every blob, in no order; blobs made or deleted meanwhile may or may not be among them."""

    def delete(self, digest: str) -> None:
        """[C7] Remove a blob. Raises NotFound."""

    def begin(self, ref: str, total: int = 0, expected: str = "") -> IngestStatus:
        """[C8] Open the ingest `ref`, making it or resuming it at its offset.

        Raises AlreadyExists when `expected` is a blob that is here; Unavailable when another writer has it open
        (`[C3]`); InvalidArgument for an empty ref, a negative total, or a total that differs from the one recorded.
        """

    def append(self, ref: str, data: bytes, offset: int = -1) -> int:
        """[C9] Write at the end and return the new offset. With `offset` >= 0 it must equal the current one.

        Raises NotFound when `ref` is not open, OutOfRange for another offset, ResourceExhausted for a full disk (the
        ingest then keeps what it had).
        """

    def truncate(self, ref: str, size: int) -> None:
        """[C10] Cut an open ingest to `size` bytes. Raises NotFound, OutOfRange beyond its offset."""

    def commit(self, ref: str, size: int = 0, expected: str = "") -> BlobInfo:
        """[C11] Make the blob of an open ingest and forget the ingest.

        `size` > 0 and `expected` are verified; where they are not given, what `begin` was told. Raises
        FailedPrecondition when size or digest differ (the ingest is kept, open), AlreadyExists when the blob is here
        (the ingest is gone), NotFound.
        """

    def close(self, ref: str) -> None:
        """[C12] Let go of an open ingest without dropping its bytes. Unknown refs are ignored."""

    def abort(self, ref: str) -> None:
        """[C13] Drop an ingest and its bytes, open or not. Raises NotFound."""

    def status(self, ref: str) -> IngestStatus:
        """[C14] One ingest. Raises NotFound."""

    def statuses(self) -> list[IngestStatus]:
        """[C15] All ingests."""

    def ingest_path_for(self, size: int) -> str:
        """[C16] A directory on the store's filesystem where `adopt` can take a file from by renaming it."""

    def adopt(self, path: str, digest: str, size: int) -> BlobInfo:
        """[C17] Take a finished file by rename. The caller has verified digest and size while it wrote the file.

        The store syncs it. Raises AlreadyExists (the file is removed), InvalidArgument on a size that differs.
        """
