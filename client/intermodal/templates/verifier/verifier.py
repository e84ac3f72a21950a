"""A verifier by a shared key: an image is accepted when a document that refers to it approves of its digest.

    {"subject": "sha256:...", "hmac": HMAC-SHA256 of the subject with the key, in hex}

Who has the key can approve; public keys are better, where more than one site is to check.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

from intermodal_core.contracts.verifiers import Candidate, Evidence, Verdict

__all__ = ["ARTIFACT_TYPE", "SampleVerifier", "approval"]

ARTIFACT_TYPE = "application/vnd.sample.approval+json"


def approval(digest: str, key: bytes) -> bytes:
    """The document that approves of an image."""
    return json.dumps({"subject": digest, "hmac": hmac.new(key, digest.encode(), hashlib.sha256).hexdigest()}).encode()


class SampleVerifier:
    """Implements `intermodal_core.contracts.verifiers.Verifier`."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def verify(self, candidate: Candidate, evidence: Evidence) -> Verdict:
        """[V4] Look for an approval of this very digest."""
        found = evidence.referrers(ARTIFACT_TYPE)
        for each in found:
            if self._approves(candidate.target.digest, evidence.read(each)):
                return Verdict(True, f"{candidate.name} is approved with the key", "the key's holder")
        missing = f"none of {len(found)} approvals of it is right" if found else "nobody has approved of it"
        return Verdict(False, f"{candidate.name} is refused: {missing}; push an approval of {candidate.target.digest}")

    def _approves(self, digest: str, document: bytes) -> bool:
        try:
            said: Any = json.loads(document)
        except (ValueError, RecursionError):
            return False
        if not isinstance(said, dict) or said.get("subject") != digest or not isinstance(said.get("hmac"), str):
            return False
        expected = json.loads(approval(digest, self._key))["hmac"]
        return hmac.compare_digest(said["hmac"].encode(), expected.encode())
