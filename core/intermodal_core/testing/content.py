"""Conformance kit of content stores.

Subclass and say how a store is made; each test names the rule of `intermodal_core.contracts.content` that it holds the
store to:

    class TestMine(ContentStoreKit):
        @pytest.fixture
        def factory(self):
            return MyStore
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from intermodal_core.contracts.content import BlobInfo, ContentStore, IngestStatus
from intermodal_core.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutOfRange,
    Unavailable,
)
from intermodal_core.testing.crashes import kill_at_every_step
from intermodal_core.testing.kit import Kit
from intermodal_core.testing.trees import THREADS, at_once

__all__ = ["ContentStoreKit", "Factory", "digest_of"]

#: Opens the store below a directory, making it where there is none. A second call with one directory stands for a
#: restart: the earlier store is not used any more.
Factory = Callable[[Path], ContentStore]

DATA = b"".join(hashlib.sha256(bytes([n])).digest() for n in range(250))


def digest_of(data: bytes) -> str:
    """The digest that names `data`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


DIGEST = digest_of(DATA)


class ContentStoreKit(Kit):
    """The tests; override `factory`."""

    contracts = (ContentStore,)
    instances = ("store",)

    @pytest.fixture
    def factory(self) -> Factory:
        """How a store is made; to be overridden."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, factory: Factory, tmp_path: Path) -> ContentStore:
        """A new store."""
        return factory(tmp_path / "store")

    def test_c1_nothing_is_found_before_the_commit(self, store: ContentStore) -> None:
        """[C1] A blob appears whole or not at all."""
        store.begin("r", len(DATA), DIGEST)
        store.append("r", DATA)
        with pytest.raises(NotFound):
            store.info(DIGEST)
        assert list(store.walk()) == []
        store.commit("r")
        assert _read(store, DIGEST) == DATA

    def test_c1_an_ingest_survives_a_restart_and_is_no_blob(
        self, store: ContentStore, factory: Factory, tmp_path: Path
    ) -> None:
        """[C1] What was not committed is not found after a restart; [C8] it is resumed at its offset."""
        store.begin("r", len(DATA), DIGEST)
        store.append("r", DATA[:5000])
        again = factory(tmp_path / "store")
        with pytest.raises(NotFound):
            again.info(DIGEST)
        resumed = again.begin("r")
        assert (resumed.offset, resumed.total, resumed.expected) == (5000, len(DATA), DIGEST)
        again.append("r", DATA[5000:])
        assert again.commit("r", len(DATA), DIGEST).digest == DIGEST
        assert _read(again, DIGEST) == DATA

    def test_c2_a_blob_survives_a_restart(self, store: ContentStore, factory: Factory, tmp_path: Path) -> None:
        """[C2] A committed blob is there for the next process."""
        made = _write(store, DATA)
        again = factory(tmp_path / "store")
        assert again.info(DIGEST) == made
        assert _read(again, DIGEST) == DATA
        assert again.statuses() == []

    def test_c1_c2_killed_at_any_step(self, factory: Factory, tmp_path: Path) -> None:
        """[C1] What is found has the right bytes; [C2] what was committed is found; [C8] what was begun goes on."""
        self.needs_fork()
        datas = [DATA, DATA[:5000] + b"other", b"deleted"]
        number = 0

        def fresh() -> Callable[[Callable[[], None]], None]:
            nonlocal number
            number += 1
            here = tmp_path / str(number)

            def scenario(done: Callable[[], None]) -> None:
                store = factory(here)
                for index, data in enumerate(datas):
                    store.begin(f"r{index}", len(data), digest_of(data))
                    store.append(f"r{index}", data[:4000])
                    store.append(f"r{index}", data[4000:])
                    store.commit(f"r{index}")
                    done()
                store.delete(digest_of(datas[2]))
                done()

            return scenario

        kills = 0
        for step, calls in kill_at_every_step(fresh):
            kills += 1
            store = factory(tmp_path / str(number))
            found = {blob.digest: _read(store, blob.digest) for blob in store.walk()}
            assert {digest_of(data) for data in found.values()} == set(found), f"killed at step {step}"
            assert {digest_of(data) for data in datas[: min(calls, 2)]} <= set(found), f"killed at step {step}"
            for index, data in enumerate(datas[:2]):
                if digest_of(data) in found:
                    continue
                offset = store.begin(f"r{index}", len(data), digest_of(data)).offset
                store.append(f"r{index}", data[offset:])
                assert store.commit(f"r{index}").digest == digest_of(data), f"killed at step {step}"
            shutil.rmtree(tmp_path / str(number))
        assert kills > len(datas)

    def test_c3_of_many_writers_one_has_it(self, store: ContentStore) -> None:
        """[C3] Whoever comes at the same time is told to wait."""
        outcomes = at_once(lambda _: store.begin("r"))
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["IngestStatus"] + ["Unavailable"] * (
            THREADS - 1
        )
        store.append("r", DATA)
        assert store.commit("r").digest == DIGEST

    def test_c11_of_many_with_one_blob(self, store: ContentStore) -> None:
        """[C11] Each makes it or is told that it is here; the blob is whole, and no ingest is left."""

        def write(number: int) -> BlobInfo:
            store.begin(f"r{number}")
            store.append(f"r{number}", DATA)
            return store.commit(f"r{number}")

        outcomes = at_once(write)
        assert {type(outcome).__name__ for outcome in outcomes} <= {"AlreadyExists", "BlobInfo"}
        assert {outcome.digest for outcome in outcomes if isinstance(outcome, BlobInfo)} == {DIGEST}
        assert _read(store, DIGEST) == DATA
        assert store.statuses() == []

    def test_c3_one_writer(self, store: ContentStore) -> None:
        """[C3] A second begin of an open ref raises, until the first writer is done."""
        store.begin("r")
        with pytest.raises(Unavailable):
            store.begin("r")
        store.close("r")
        store.begin("r")
        store.abort("r")
        store.begin("r")
        store.append("r", DATA)
        store.commit("r")
        assert store.begin("r").offset == 0

    def test_c4_info(self, store: ContentStore) -> None:
        """[C4] Size and time of a blob."""
        before = time.time_ns()
        made = _write(store, DATA)
        assert store.info(DIGEST) == made
        assert (made.digest, made.size) == (DIGEST, len(DATA))
        # A filesystem's clock ticks coarsely.
        assert before - 100_000_000 <= made.created_at <= time.time_ns() + 100_000_000
        with pytest.raises(NotFound):
            store.info(digest_of(b"other"))

    @pytest.mark.parametrize(
        "digest", ["", "sha256:", "sha256:" + "g" * 64, "sha256:" + "A" * 64, "sha256:" + "a" * 63, "md5:" + "a" * 32]
    )
    def test_c4_malformed_digest(self, store: ContentStore, digest: str) -> None:
        """[C4] A malformed digest is the caller's mistake."""
        with pytest.raises(InvalidArgument):
            store.info(digest)

    def test_c4_a_digest_is_no_path(self, store: ContentStore) -> None:
        """[C4] A digest never leads out of the store."""
        for digest in ("sha256:../../ingests", "../x", "sha256:" + "../" * 21 + "a", DIGEST + "\n"):
            with pytest.raises(InvalidArgument):
                store.open(digest)

    def test_c5_open(self, store: ContentStore) -> None:
        """[C5] A descriptor at 0, read-only, readable after the delete."""
        _write(store, DATA)
        descriptor = store.open(DIGEST)
        try:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.write(descriptor, b"x")
            store.delete(DIGEST)
            assert os.read(descriptor, 10) == DATA[:10]
            assert os.pread(descriptor, len(DATA) + 1, 0) == DATA
        finally:
            os.close(descriptor)
        with pytest.raises(NotFound):
            store.open(DIGEST)

    def test_c5_descriptors_are_independent(self, store: ContentStore) -> None:
        """[C5] Two readers do not move each other."""
        _write(store, DATA)
        one, other = store.open(DIGEST), store.open(DIGEST)
        try:
            assert os.read(one, 100) == os.read(other, 100) == DATA[:100]
        finally:
            os.close(one)
            os.close(other)

    def test_c6_walk(self, store: ContentStore) -> None:
        """[C6] Every blob, and no ingest."""
        made = [_write(store, data) for data in (b"", b"one", DATA)]
        store.begin("r")
        assert sorted(store.walk(), key=lambda blob: blob.size) == made

    def test_c7_delete(self, store: ContentStore) -> None:
        """[C7] Gone, once; the others stay."""
        _write(store, DATA)
        other = _write(store, b"other")
        store.delete(DIGEST)
        assert list(store.walk()) == [other]
        with pytest.raises(NotFound):
            store.delete(DIGEST)
        assert _write(store, DATA).digest == DIGEST

    def test_c8_begin(self, store: ContentStore) -> None:
        """[C8] A new ingest is empty and remembers what its writer said."""
        status = store.begin("a/ref with spaces" + "x" * 500, 10, DIGEST)
        assert (status.offset, status.total, status.expected) == (0, 10, DIGEST)
        assert status.started_at <= time.time_ns()

    def test_c8_refused(self, store: ContentStore) -> None:
        """[C8] Every error of begin; none leaves the ref open."""
        _write(store, DATA)
        with pytest.raises(AlreadyExists):
            store.begin("r", 0, DIGEST)
        with pytest.raises(InvalidArgument):
            store.begin("")
        with pytest.raises(InvalidArgument):
            store.begin("r", -1)
        with pytest.raises(InvalidArgument):
            store.begin("r", 0, "sha256:no")
        store.begin("r", 10)
        store.close("r")
        with pytest.raises(InvalidArgument):
            store.begin("r", 11)
        assert store.begin("r", 10).total == 10

    def test_c9_append(self, store: ContentStore) -> None:
        """[C9] The new offset is returned, a given one must be the current."""
        store.begin("r")
        assert store.append("r", DATA[:10]) == 10
        assert store.append("r", DATA[10:20], 10) == 20
        for offset in (0, 10, 21):
            with pytest.raises(OutOfRange):
                store.append("r", b"x", offset)
        assert store.append("r", b"") == 20
        assert store.commit("r").digest == digest_of(DATA[:20])

    def test_c9_not_open(self, store: ContentStore) -> None:
        """[C9] Only an open ingest takes bytes."""
        with pytest.raises(NotFound):
            store.append("r", b"x")
        store.begin("r")
        store.close("r")
        with pytest.raises(NotFound):
            store.append("r", b"x")

    def test_c10_truncate(self, store: ContentStore) -> None:
        """[C10] What is cut is neither counted nor hashed."""
        store.begin("r")
        store.append("r", DATA[:100] + b"wrong")
        with pytest.raises(OutOfRange):
            store.truncate("r", 106)
        with pytest.raises(OutOfRange):
            store.truncate("r", -1)
        store.truncate("r", 100)
        assert store.status("r").offset == 100
        store.append("r", DATA[100:], 100)
        assert store.commit("r", len(DATA), DIGEST).size == len(DATA)
        with pytest.raises(NotFound):
            store.truncate("r", 0)

    def test_c11_commit(self, store: ContentStore) -> None:
        """[C11] The ingest becomes the blob."""
        store.begin("r")
        store.append("r", DATA)
        assert store.commit("r").digest == DIGEST
        assert store.statuses() == []
        with pytest.raises(NotFound):
            store.commit("r")

    def test_c11_wrong_size_or_digest(self, store: ContentStore) -> None:
        """[C11] A mismatch keeps the ingest, open."""
        store.begin("r")
        store.append("r", DATA)
        with pytest.raises(FailedPrecondition):
            store.commit("r", len(DATA) - 1)
        with pytest.raises(FailedPrecondition):
            store.commit("r", 0, digest_of(b"other"))
        with pytest.raises(InvalidArgument):
            store.commit("r", 0, "sha256:no")
        assert list(store.walk()) == []
        assert store.append("r", b"") == len(DATA)
        assert store.commit("r", len(DATA), DIGEST).digest == DIGEST

    def test_c11_what_begin_was_told(self, store: ContentStore) -> None:
        """[C11] The total and the digest of begin hold where commit gives none."""
        store.begin("r", 10)
        store.append("r", b"short")
        with pytest.raises(FailedPrecondition):
            store.commit("r")
        store.begin("s", 0, DIGEST)
        store.append("s", b"other")
        with pytest.raises(FailedPrecondition):
            store.commit("s")

    def test_c11_the_blob_is_here(self, store: ContentStore) -> None:
        """[C11] A blob written twice is kept once, and the second ingest is gone."""
        made = _write(store, DATA)
        store.begin("r")
        store.append("r", DATA)
        with pytest.raises(AlreadyExists):
            store.commit("r")
        assert store.info(DIGEST) == made
        assert store.statuses() == []

    def test_c12_close(self, store: ContentStore) -> None:
        """[C12] The bytes stay; unknown refs are ignored."""
        store.close("unknown")
        store.begin("r")
        store.append("r", DATA[:100])
        store.close("r")
        store.close("r")
        assert store.begin("r").offset == 100
        store.append("r", DATA[100:])
        assert store.commit("r").digest == DIGEST

    def test_c13_abort(self, store: ContentStore) -> None:
        """[C13] Open or not, it is gone."""
        for is_open in (True, False):
            store.begin("r")
            store.append("r", DATA)
            if not is_open:
                store.close("r")
            store.abort("r")
            assert store.statuses() == []
            with pytest.raises(NotFound):
                store.abort("r")
        assert store.begin("r").offset == 0

    def test_c14_status(self, store: ContentStore) -> None:
        """[C14] As it is now, open or closed."""
        began = store.begin("r", 7000)
        store.append("r", DATA[:100])
        status = store.status("r")
        assert (status.ref, status.offset, status.total, status.started_at) == ("r", 100, 7000, began.started_at)
        assert status.digest == digest_of(DATA[:100])
        store.close("r")
        assert store.status("r") == msgspec.structs.replace(status, digest="")
        with pytest.raises(NotFound):
            store.status("other")

    def test_c15_statuses(self, store: ContentStore) -> None:
        """[C15] All of them."""
        assert store.statuses() == []
        for ref in ("a", "b", "c"):
            store.begin(ref)
        store.close("b")
        assert sorted(map(_ref, store.statuses())) == ["a", "b", "c"]

    def test_c16_c17_adopt(self, store: ContentStore) -> None:
        """[C16] A directory to write a file in, that [C17] takes by rename."""
        path = Path(store.ingest_path_for(len(DATA))) / "some-file"
        path.write_bytes(DATA)
        assert store.adopt(str(path), DIGEST, len(DATA)) == store.info(DIGEST)
        assert not path.exists()
        assert _read(store, DIGEST) == DATA

    def test_c17_refused(self, store: ContentStore) -> None:
        """[C17] A wrong size leaves the file, a known blob removes it."""
        path = Path(store.ingest_path_for(len(DATA))) / "some-file"
        with pytest.raises(NotFound):
            store.adopt(str(path), DIGEST, len(DATA))
        path.write_bytes(DATA)
        with pytest.raises(InvalidArgument):
            store.adopt(str(path), DIGEST, len(DATA) + 1)
        assert path.exists()
        made = _write(store, DATA)
        with pytest.raises(AlreadyExists):
            store.adopt(str(path), DIGEST, len(DATA))
        assert not path.exists()
        assert store.info(DIGEST) == made


def _write(store: ContentStore, data: bytes) -> BlobInfo:
    store.begin("kit", len(data), digest_of(data))
    store.append("kit", data)
    return store.commit("kit", len(data), digest_of(data))


def _read(store: ContentStore, digest: str) -> bytes:
    with os.fdopen(store.open(digest), "rb") as file:
        return file.read()


def _ref(status: IngestStatus) -> str:
    return status.ref
