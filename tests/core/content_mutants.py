"""Content stores with one fault each, which the kit must find: run by test_content_kit.py, not collected by itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from intermodal_core.contracts.content import BlobInfo, IngestStatus
from intermodal_core.errors import NotFound
from intermodal_core.testing.content import ContentStoreKit, Factory
from intermodal_local.store import Store


class _Kit(ContentStoreKit):
    Mutant: type[Store] = Store

    @pytest.fixture
    def factory(self) -> Factory:
        return self.Mutant


class TestCorrect(_Kit):
    """No fault: nothing may fail."""


class TestC01(_Kit):
    class Mutant(Store):
        """Writes right into the blob."""

        def append(self, ref: str, data: bytes, offset: int = -1) -> int:
            if expected := self.status(ref).expected:
                self._blob(expected).write_bytes(data)
            return super().append(ref, data, offset)


class TestC02(_Kit):
    class Mutant(Store):
        """Forgets its blobs at the end."""

        def __init__(self, root: Path | str) -> None:
            super().__init__(root)
            for blob in list(self.walk()):
                self.delete(blob.digest)


class TestC03(_Kit):
    class Mutant(Store):
        """Takes the ingest away from its writer."""

        def begin(self, ref: str, total: int = 0, expected: str = "") -> IngestStatus:
            self.close(ref)
            return super().begin(ref, total, expected)


class TestC04(_Kit):
    class Mutant(Store):
        """Believes every digest."""

        def _blob(self, digest: str) -> Path:
            return self._blobs / digest.removeprefix("sha256:")


class TestC05(_Kit):
    class Mutant(Store):
        """Lets readers write."""

        def open(self, digest: str) -> int:
            os.close(super().open(digest))
            return os.open(self._blob(digest), os.O_RDWR | os.O_CLOEXEC)


class TestC06(_Kit):
    class Mutant(Store):
        """Passes over empty blobs."""

        def walk(self) -> Iterator[BlobInfo]:
            return (blob for blob in super().walk() if blob.size)


class TestC07(_Kit):
    class Mutant(Store):
        """Deletes what is not there."""

        def delete(self, digest: str) -> None:
            try:
                super().delete(digest)
            except NotFound:
                return


class TestC08(_Kit):
    class Mutant(Store):
        """Begins a blob that is here."""

        def begin(self, ref: str, total: int = 0, expected: str = "") -> IngestStatus:
            return super().begin(ref, total)


class TestC09(_Kit):
    class Mutant(Store):
        """Writes wherever it is."""

        def append(self, ref: str, data: bytes, offset: int = -1) -> int:
            return super().append(ref, data)


class TestC10(_Kit):
    class Mutant(Store):
        """Hashes what was cut."""

        def truncate(self, ref: str, size: int) -> None:
            ingest = self._writer(ref)
            before = ingest._hash
            super().truncate(ref, size)
            ingest._hash = before


class TestC11(_Kit):
    class Mutant(Store):
        """Verifies nothing."""

        def commit(self, ref: str, size: int = 0, expected: str = "") -> BlobInfo:
            ingest = self._writer(ref)
            ingest.total, ingest.expected = 0, ""
            return super().commit(ref)


class TestC12(_Kit):
    class Mutant(Store):
        """Drops what was not finished."""

        def close(self, ref: str) -> None:
            if ref in self._open:
                self.abort(ref)


class TestC13(_Kit):
    class Mutant(Store):
        """Aborts open ingests only."""

        def abort(self, ref: str) -> None:
            self._writer(ref)
            super().abort(ref)


class TestC14(_Kit):
    class Mutant(Store):
        """Forgets what the writer said."""

        def status(self, ref: str) -> IngestStatus:
            return msgspec.structs.replace(super().status(ref), total=0)


class TestC15(_Kit):
    class Mutant(Store):
        """Lists open ingests only."""

        def statuses(self) -> list[IngestStatus]:
            return [status for status in super().statuses() if status.ref in self._open]


class TestC16(_Kit):
    class Mutant(Store):
        """Names a directory that nobody made."""

        def ingest_path_for(self, size: int) -> str:
            return f"{super().ingest_path_for(size)}/{size}"


class TestC17(_Kit):
    class Mutant(Store):
        """Takes a file of any size."""

        def adopt(self, path: str, digest: str, size: int) -> BlobInfo:
            return super().adopt(path, digest, os.stat(path).st_size)
