"""The conformance kit of verifiers: subclass `VerifierKit`, say what is accepted and what is not, run pytest.

    class TestMine(VerifierKit):
        @pytest.fixture
        def factory(self):
            return lambda: MyVerifier(KEY)

        def good(self):                                  # an image that it accepts
            papers = Papers()
            papers.attach("application/x.mine", sign(papers.candidate.target.digest))
            return papers

        def bad(self):                                   # others, by what is wrong with them
            return {"unsigned": Papers(), ...}

A test's name says which rule of `intermodal_core.contracts.verifiers` it holds to: `test_v1_...` is of [V1].
"""

# ruff: noqa: D102 - what a test holds to is the contract's rule that its name gives

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress

import pytest

from intermodal_core.contracts.common import Descriptor
from intermodal_core.contracts.verifiers import Candidate, Verdict, Verifier
from intermodal_core.errors import NotFound, Unavailable
from intermodal_core.testing.kit import Kit
from intermodal_core.testing.trees import at_once

__all__ = ["Factory", "Papers", "VerifierKit"]

#: Makes a verifier.
Factory = Callable[[], Verifier]

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Papers:
    """An image and the evidence about it, in memory: implements `intermodal_core.contracts.verifiers.Evidence`.

    `asked` counts the questions.
    """

    def __init__(self, name: str = "registry.example/team/image:1", document: bytes = b'{"schemaVersion": 2}') -> None:
        self.asked = 0
        self.tags: dict[str, Descriptor] = {}
        self.about: list[Descriptor] = []
        self.blobs: dict[str, bytes] = {}
        self.candidate = Candidate("kit", name, self.keep(MANIFEST, document), "https://registry.example")

    def keep(self, media_type: str, data: bytes, artifact_type: str = "") -> Descriptor:
        """Have the repository hold some bytes."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.blobs[digest] = data
        return Descriptor(media_type, digest, len(data), artifact_type=artifact_type)

    def attach(self, artifact_type: str, data: bytes) -> Descriptor:
        """Have a document refer to the image."""
        self.about.append(self.keep(artifact_type, data, artifact_type))
        return self.about[-1]

    def resolve(self, tag: str) -> Descriptor:
        """As the contract says."""
        self.asked += 1
        if tag not in self.tags:
            raise NotFound(f"there is no tag {tag}")
        return self.tags[tag]

    def referrers(self, artifact_type: str = "") -> list[Descriptor]:
        """As the contract says."""
        self.asked += 1
        return [each for each in self.about if artifact_type in ("", each.artifact_type)]

    def read(self, target: Descriptor) -> bytes:
        """As the contract says."""
        self.asked += 1
        if target.digest not in self.blobs:
            raise NotFound(f"there is no {target.digest}")
        return self.blobs[target.digest]


class _Away(Papers):
    """The same image, whose repository cannot be reached."""

    def __init__(self, papers: Papers) -> None:
        super().__init__()
        self.candidate = papers.candidate

    def resolve(self, tag: str) -> Descriptor:
        """Not now."""
        self.asked += 1
        raise Unavailable("registry.example cannot be reached")

    def referrers(self, artifact_type: str = "") -> list[Descriptor]:
        """Not now."""
        self.asked += 1
        raise Unavailable("registry.example cannot be reached")

    def read(self, target: Descriptor) -> bytes:
        """Not now."""
        self.asked += 1
        raise Unavailable("registry.example cannot be reached")


class _Forged(Papers):
    """The same image, about which every document says something else."""

    def __init__(self, papers: Papers, forge: Callable[[bytes], bytes]) -> None:
        super().__init__()
        self.candidate, self.about, self.tags = papers.candidate, papers.about, papers.tags
        self.blobs = {digest: forge(data) for digest, data in papers.blobs.items()}


_FORGERIES: Mapping[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "noise": lambda data: hashlib.sha512(data).digest() * 20,
    "null": lambda data: b"null",
    "list": lambda data: b"[]",
    "numbers": lambda data: b'{"subject": 7, "payload": 7, "signatures": 7, "layers": 7, "annotations": 7}',
    "deep": lambda data: b"[" * 100_000,
    "long": lambda data: b'"' + b"a" * (1 << 20) + b'"',
    "not text": lambda data: b'{"a": "\xff\xfe"}',
}


class VerifierKit(Kit):
    """The rules of the contract, each a test or several."""

    contracts = (Verifier,)
    instances = ("verifier",)

    @pytest.fixture
    def factory(self) -> Factory:
        """Makes a verifier; to be overridden."""
        raise NotImplementedError("define the fixture `factory`")

    @pytest.fixture
    def verifier(self, factory: Factory) -> Verifier:
        """A new one."""
        return factory()

    def good(self) -> Papers:
        """An image that is accepted; to be overridden."""
        raise NotImplementedError("define the method `good`")

    def bad(self) -> Mapping[str, Papers]:
        """Images that are refused, by what is wrong with them; to be overridden."""
        raise NotImplementedError("define the method `bad`")

    def test_v1_the_same_verdict(self, verifier: Verifier, factory: Factory) -> None:
        """Whatever was asked in between, and of another instance."""
        good, others = self.good(), self.bad()
        first = verifier.verify(good.candidate, good)
        refusals = {what: verifier.verify(papers.candidate, papers) for what, papers in others.items()}
        for other in (verifier, factory()):
            for what, papers in others.items():
                assert other.verify(papers.candidate, papers) == refusals[what], what
            assert other.verify(good.candidate, good) == first

    def test_v2_many_at_once(self, verifier: Verifier) -> None:
        images = [self.good(), *self.bad().values()]

        def ask(number: int) -> bool:
            papers = images[number % len(images)]
            return verifier.verify(papers.candidate, papers).accepted

        assert at_once(ask) == [number % len(images) == 0 for number in range(64)]

    @pytest.mark.parametrize("how", _FORGERIES)
    def test_v3_evidence_is_not_trusted(self, verifier: Verifier, how: str) -> None:
        good = self.good()
        forged = _Forged(good, _FORGERIES[how])
        verdict = verifier.verify(forged.candidate, forged)
        assert not (verdict.accepted and forged.asked), f"it was shown documents that are {how}, and accepted"

    def test_v3_evidence_of_another_image(self, verifier: Verifier) -> None:
        good = self.good()
        other = Papers(good.candidate.name, b'{"schemaVersion": 2, "annotations": {"another": "image"}}')
        other.about, other.tags, other.blobs = good.about, good.tags, {**good.blobs, **other.blobs}
        verdict = verifier.verify(other.candidate, other)
        assert not verdict.accepted, "what it saw is about another image"

    def test_v4_accepted(self, verifier: Verifier) -> None:
        good = self.good()
        verdict = verifier.verify(good.candidate, good)
        assert verdict.accepted, verdict.reason
        assert _is_a_sentence(verdict)

    def test_v4_refused(self, verifier: Verifier) -> None:
        others = self.bad()
        assert others
        for what, papers in others.items():
            verdict = verifier.verify(papers.candidate, papers)
            assert not verdict.accepted, what
            assert _is_a_sentence(verdict), what

    def test_v4_nothing_can_be_known(self, verifier: Verifier) -> None:
        good = self.good()
        away = _Away(good)
        with suppress(Unavailable):  # what the evidence raises goes on to the caller as it is
            verdict = verifier.verify(away.candidate, away)
            assert away.asked == 0, f"it could not see the evidence, and said: {verdict}"


def _is_a_sentence(verdict: Verdict) -> bool:
    reason = verdict.reason.strip()
    return " " in reason and "\n" not in reason
