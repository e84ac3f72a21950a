"""The differ keeps its contract, and takes layers that nobody else takes."""

from __future__ import annotations

import hashlib
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from intermodal_core.errors import InvalidArgument
from intermodal_core.spawner import Spawner
from intermodal_core.testing.differ_fixtures import applied_to
from intermodal_core.testing.differs import DifferKit, Factory
from intermodal_core.testing.layers import entry, tar
from intermodal_tar.differ import WORKER, TarDiffer

from intermodal_sample.differ import MEDIA_TYPE, SampleDiffer


@pytest.fixture(scope="module")
def spawner() -> Iterator[Spawner]:
    spawner = Spawner()
    spawner.preload(WORKER, deadline=30)
    yield spawner
    spawner.close()


class TestContract(DifferKit):
    capabilities = frozenset({"limits", "devices", "timeout", "worker", "alone", "compare"})

    @pytest.fixture
    def factory(self, spawner: Spawner) -> Factory:
        def make(root: Path, **options: Any) -> SampleDiffer:
            return SampleDiffer(TarDiffer(spawner, root, **options))

        return make

    def test_d4_an_xz_layer(self, differ: SampleDiffer, bind: Any) -> None:
        plain = tar(entry("etc/hosts", data=b"localhost\n" * 1000))
        packed = lzma.compress(plain)
        applied = applied_to(differ, bind.mounts, packed, MEDIA_TYPE)
        assert (bind.top / "etc/hosts").read_bytes() == b"localhost\n" * 1000
        assert applied.diff_id == f"sha256:{hashlib.sha256(plain).hexdigest()}"
        assert (applied.source_digest, applied.source_size) == (
            f"sha256:{hashlib.sha256(packed).hexdigest()}",
            len(packed),
        )

    @pytest.mark.parametrize(
        "data", [b"", b"nothing of the kind", lzma.compress(tar(entry("a", data=b"a" * 9000)))[:-9]]
    )
    def test_d2_what_is_no_xz_layer(self, differ: SampleDiffer, bind: Any, data: bytes) -> None:
        with pytest.raises(InvalidArgument):
            applied_to(differ, bind.mounts, data, MEDIA_TYPE)
