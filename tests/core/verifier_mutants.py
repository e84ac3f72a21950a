"""Verifiers with one fault each, which the kit must find: run by test_kits.py, not collected by itself."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Mapping

import pytest
from intermodal_core.contracts.common import Descriptor
from intermodal_core.contracts.verifiers import Candidate, Evidence, Verdict
from intermodal_core.errors import Unavailable
from intermodal_core.testing.verifiers import Factory, Papers, VerifierKit

KEY = b"a key"
TYPE = "application/x.approval"


def approval(digest: str, key: bytes = KEY) -> bytes:
    return json.dumps({"subject": digest, "mac": hmac.new(key, digest.encode(), hashlib.sha256).hexdigest()}).encode()


class Approved:
    """Accepts what a holder of the key has approved."""

    def verify(self, candidate: Candidate, evidence: Evidence) -> Verdict:
        for each in evidence.referrers(TYPE):
            if self.holds(candidate, evidence.read(each)):
                return Verdict(True, f"{candidate.name} is approved by the key", "the key")
        return Verdict(False, f"{candidate.name} has no approval by the key: approve it")

    def holds(self, candidate: Candidate, data: bytes) -> bool:
        try:
            said = json.loads(data)["mac"]
        except (ValueError, LookupError, TypeError, RecursionError):
            return False
        wanted = json.loads(approval(candidate.target.digest))["mac"]
        return isinstance(said, str) and said.isascii() and hmac.compare_digest(said, wanted)


class _Kit(VerifierKit):
    Mutant: type[Approved] = Approved

    @pytest.fixture
    def factory(self) -> Factory:
        return self.Mutant

    def good(self) -> Papers:
        papers = Papers()
        papers.attach(TYPE, approval(papers.candidate.target.digest))
        return papers

    def bad(self) -> Mapping[str, Papers]:
        by_another, unsigned = Papers(), Papers()
        by_another.attach(TYPE, approval(by_another.candidate.target.digest, b"another key"))
        return {"unsigned": unsigned, "signed by another": by_another}


class TestCorrect(_Kit):
    """No fault: nothing may fail."""


class TestV1(_Kit):
    class Mutant(Approved):
        """Remembers names."""

        def verify(self, candidate: Candidate, evidence: Evidence) -> Verdict:
            known: dict[str, Verdict] = self.__dict__.setdefault("_known", {})
            if candidate.name not in known:
                known[candidate.name] = super().verify(candidate, evidence)
            return known[candidate.name]


class TestV2(_Kit):
    class Mutant(Approved):
        """Keeps what it works on in itself."""

        def verify(self, candidate: Candidate, evidence: Evidence) -> Verdict:
            self.found: list[Descriptor] = evidence.referrers(TYPE)
            time.sleep(0.002)
            accepted = any(self.holds(candidate, evidence.read(each)) for each in self.found if each)
            return Verdict(accepted, "it is approved" if accepted else "it is not approved")


class TestV3(_Kit):
    class Mutant(Approved):
        """Does not look at what the approval is for."""

        def holds(self, candidate: Candidate, data: bytes) -> bool:
            try:
                said = json.loads(data)
                return bool(said["mac"] == json.loads(approval(said["subject"]))["mac"])
            except (ValueError, LookupError, TypeError, RecursionError):
                return False


class TestV3Malformed(_Kit):
    class Mutant(Approved):
        """Lets go what it cannot read."""

        def holds(self, candidate: Candidate, data: bytes) -> bool:
            try:
                json.loads(data)
            except (ValueError, RecursionError):
                return True
            return super().holds(candidate, data)


class TestV4(_Kit):
    class Mutant(Approved):
        """Gives no reason."""

        def verify(self, candidate: Candidate, evidence: Evidence) -> Verdict:
            return Verdict(super().verify(candidate, evidence).accepted, "")


class TestV4Away(_Kit):
    class Mutant(Approved):
        """Accepts what it cannot know."""

        def verify(self, candidate: Candidate, evidence: Evidence) -> Verdict:
            try:
                return super().verify(candidate, evidence)
            except Unavailable:
                return Verdict(True, "nobody says that it is bad")
