"""Verifiers: whether an image may be used, by what its signers say of it.

Vocabulary. A *candidate* is an image that somebody wants to use: a name and the descriptor that it points at. *Evidence* is what the
image's repository has about it: signatures, attestations. A *verdict* is accepted or refused, with the reason.

Life cycle: a pull resolves its name -> every verifier in use is asked, with the mode that the policy gives (`enforce`, `audit`,
`off`) -> under `enforce` one refusal or one error refuses the pull, and so does the absence of any verifier; under `audit` the verdicts
are logged. Each verdict is an event.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import msgspec

from intermodal_core.contracts.common import Descriptor

__all__ = ["VERSION", "Candidate", "Evidence", "Verdict", "Verifier"]

VERSION = 1


class Candidate(msgspec.Struct, frozen=True):
    """An image: its full name, what that points at now, the URL of the host that said so, and the namespace that wants it."""

    namespace: str
    name: str
    target: Descriptor
    host: str = ""


class Verdict(msgspec.Struct, frozen=True):
    """What a verifier says. `reason` is a sentence, also for what is accepted; `signer` names whose word it is, if anybody's."""

    accepted: bool
    reason: str
    signer: str = ""


class Evidence(Protocol):
    """What a verifier may look at: the candidate's repository. Blocking; from the thread of the call.

    Everything that it gives comes from whoever can write to the repository. Its errors are those of image sources: NotFound;
    PermissionDenied, Unavailable, DeadlineExceeded where nothing can be known now.
    """

    def resolve(self, tag: str) -> Descriptor:
        """What a tag of the repository points at. Raises NotFound."""

    def referrers(self, artifact_type: str = "") -> list[Descriptor]:
        """What refers to the candidate as its subject, of one type or all; none is no error."""

    def read(self, target: Descriptor) -> bytes:
        """A document or blob of the repository; its digest is that of the descriptor. Raises ResourceExhausted over 8 MiB."""


@runtime_checkable
class Verifier(Protocol):
    """A verifier.

    [V1] A verdict depends on the configuration, the candidate and the evidence alone: the same give the same.
    [V2] It may be asked about many candidates at once.
    [V3] Evidence is not trusted: what is malformed, too much or of another image leads to a refusal, never to an acceptance, and
    nothing of it is run.
    """

    def verify(self, candidate: Candidate, evidence: Evidence) -> Verdict:
        """[V4] Say whether the candidate may be used. The reason of a refusal says what was missing, for a person to act on.

        What `evidence` raises when nothing can be known now goes on to the caller, for whom it is as good as a refusal.
        """
