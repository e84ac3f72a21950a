"""The verifier `bindir`: programs that say yes by their status."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest
from intermodal_bindir.verifier import BinDirVerifier
from intermodal_core.errors import Unavailable
from intermodal_core.spawner import Spawner
from intermodal_core.testing.verifiers import Factory, Papers, VerifierKit

GOOD = Papers()
OTHER = b'{"schemaVersion": 2, "other": 1}'


@pytest.fixture(scope="module")
def spawner() -> Iterator[Spawner]:
    spawner = Spawner()
    yield spawner
    spawner.close()


def program(directory: Path, name: str, script: str) -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


class TestBindir(VerifierKit):
    @pytest.fixture
    def factory(self, spawner: Spawner, tmp_path: Path) -> Factory:
        digest = GOOD.candidate.target.digest
        program(
            tmp_path / "bin", "check", f'if [ "$4" = {digest} ]; then echo it is known; else echo not known; exit 1; fi'
        )
        return partial(BinDirVerifier, tmp_path / "bin", spawner)

    def good(self) -> Papers:
        return Papers()

    def bad(self) -> Mapping[str, Papers]:
        return {"another": Papers(document=OTHER)}


def test_what_a_program_is_told(spawner: Spawner, tmp_path: Path) -> None:
    program(tmp_path / "bin", "note", f'echo "$@" > {tmp_path}/args; cat > {tmp_path}/stdin')
    verdict = BinDirVerifier(tmp_path / "bin", spawner).verify(GOOD.candidate, GOOD)
    assert verdict.accepted
    assert verdict.signer == "note"
    target = GOOD.candidate.target
    assert (tmp_path / "args").read_text().split() == [
        *("-name", GOOD.candidate.name, "-digest", target.digest),
        *("-stdin-media-type", "application/vnd.oci.descriptor.v1+json"),
    ]
    told = json.loads((tmp_path / "stdin").read_bytes())
    assert told == {"mediaType": target.media_type, "digest": target.digest, "size": target.size}


def test_all_must_accept(spawner: Spawner, tmp_path: Path) -> None:
    program(tmp_path / "bin", "a", "echo fine")
    program(tmp_path / "bin", "b", "echo not mine; exit 3")
    verdict = BinDirVerifier(tmp_path / "bin", spawner).verify(GOOD.candidate, GOOD)
    assert (verdict.accepted, verdict.reason) == (False, "b: not mine")
    assert BinDirVerifier(tmp_path / "bin", spawner, most=1).verify(GOOD.candidate, GOOD).accepted
    assert not BinDirVerifier(tmp_path / "bin", spawner, most=-1).verify(GOOD.candidate, GOOD).accepted


def test_one_that_gives_no_verdict(spawner: Spawner, tmp_path: Path) -> None:
    program(tmp_path / "bin", "slow", "sleep 100")
    with pytest.raises(Unavailable, match="has not ended within"):
        BinDirVerifier(tmp_path / "bin", spawner, timeout=0.2).verify(GOOD.candidate, GOOD)
    (tmp_path / "bin/slow").chmod(0o644)
    with pytest.raises(Unavailable, match="gave no verdict"):
        BinDirVerifier(tmp_path / "bin", spawner).verify(GOOD.candidate, GOOD)


def test_an_empty_directory_accepts_nothing(spawner: Spawner, tmp_path: Path) -> None:
    assert not BinDirVerifier(tmp_path / "bin", spawner).verify(GOOD.candidate, GOOD).accepted
