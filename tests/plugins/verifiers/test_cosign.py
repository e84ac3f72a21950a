"""The verifier `cosign`: keys of each kind, signatures under the tag and among the referrers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from intermodal_core.errors import InvalidArgument, NotFound
from intermodal_core.testing.verifiers import MANIFEST, Factory, Papers, VerifierKit
from intermodal_cosign.verifier import CosignVerifier, read_key

from tests.harness.signing import (
    ARTIFACT,
    KINDS,
    SIMPLE_SIGNING,
    Kind,
    new_key,
    payload_of,
    public,
    sign,
    signature_manifest,
)

KEYS = {kind: new_key(kind) for kind in KINDS}
OTHER = new_key("ecdsa")


def signed(key: Any, *, by: str = "tag", payload: bytes = b"", signature: str = "") -> Papers:
    """An image with one signature, found by its tag or as a referrer."""
    papers = Papers()
    target = papers.candidate.target
    payload = payload or payload_of(target.digest)
    manifest = signature_manifest(payload, signature or sign(key, payload), target if by == "referrer" else None)
    papers.keep(SIMPLE_SIGNING, payload)
    if by == "tag":
        papers.tags[target.digest.replace(":", "-") + ".sig"] = papers.keep(MANIFEST, manifest)
    else:
        papers.about.append(msgspec.structs.replace(papers.keep(MANIFEST, manifest), artifact_type=ARTIFACT))
    return papers


class _Kit(VerifierKit):
    kind: Kind
    by = "tag"

    @pytest.fixture
    def factory(self, tmp_path: Path) -> Factory:
        key = read_key(public(KEYS[self.kind], tmp_path / "key.pub"))
        return partial(CosignVerifier, [key])

    def good(self) -> Papers:
        return signed(KEYS[self.kind], by=self.by)

    def bad(self) -> Mapping[str, Papers]:
        key = KEYS[self.kind]
        other = payload_of("sha256:" + "0" * 64)
        return {
            "unsigned": Papers(),
            "signed by another key": signed(OTHER, by=self.by),
            "a signature of another image": signed(key, by=self.by, payload=other),
            "no base64": signed(key, by=self.by, signature="?"),
            "a payload without a digest": signed(key, by=self.by, payload=b'{"critical": {}}'),
            "a payload that is no JSON": signed(key, by=self.by, payload=b"\xff"),
        }


class TestEcdsa(_Kit):
    kind = "ecdsa"


class TestRsa(_Kit):
    kind = "rsa"
    by = "referrer"


class TestEd25519(_Kit):
    kind = "ed25519"


@pytest.fixture
def key_path(tmp_path: Path) -> Path:
    return public(KEYS["ecdsa"], tmp_path / "key.pub")


def test_any_of_several_keys(key_path: Path, tmp_path: Path) -> None:
    keys = [read_key(public(OTHER, tmp_path / "other.pub")), read_key(key_path)]
    papers = signed(KEYS["ecdsa"])
    verdict = CosignVerifier(keys).verify(papers.candidate, papers)
    assert verdict.accepted
    assert verdict.signer == str(key_path)


def test_the_repository_that_was_signed_for(key_path: Path) -> None:
    verifier = CosignVerifier([read_key(key_path)], match_reference=True)
    papers = signed(KEYS["ecdsa"])
    assert verifier.verify(papers.candidate, papers).accepted
    digest = papers.candidate.target.digest
    papers = signed(KEYS["ecdsa"], payload=payload_of(digest, "registry.example/other/image"))
    verdict = verifier.verify(papers.candidate, papers)
    assert not verdict.accepted
    assert "for another repository" in verdict.reason


def test_a_flood_of_signatures_ends(key_path: Path) -> None:
    papers = Papers()
    for number in range(100):
        payload = payload_of(papers.candidate.target.digest) + b" " * number
        papers.keep(SIMPLE_SIGNING, payload)
        manifest = papers.keep(MANIFEST, signature_manifest(payload, sign(OTHER, payload), papers.candidate.target))
        papers.about.append(msgspec.structs.replace(manifest, artifact_type=ARTIFACT))
    verdict = CosignVerifier([read_key(key_path)]).verify(papers.candidate, papers)
    assert not verdict.accepted
    assert papers.asked < 150


def test_files_that_are_no_keys(tmp_path: Path) -> None:
    path = tmp_path / "key.pub"
    with pytest.raises(NotFound):
        read_key(path)
    path.write_text("no key")
    with pytest.raises(InvalidArgument, match="no public key"):
        read_key(path)
    with pytest.raises(InvalidArgument, match="must be a key of"):
        read_key(public(ec.generate_private_key(ec.SECP384R1()), path))
    with pytest.raises(InvalidArgument, match="1024 bits"):
        read_key(public(rsa.generate_private_key(65537, 1024), path))
