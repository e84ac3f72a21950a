"""Whether an image may be used: verifiers are asked, and the operator's policy says what their word counts.

Under `enforce` one refusal, one error or the absence of any verifier refuses the image; under `audit` verdicts are told; under
`off` nobody is asked. Whatever comes of it is logged, published as an event and kept with the image.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from intermodal_api import images_pb2 as events
from intermodal_core.contracts.common import Descriptor
from intermodal_core.contracts.image_sources import Access
from intermodal_core.contracts.managers.images import Decision, Judged
from intermodal_core.contracts.managers.store import Scope, Store
from intermodal_core.contracts.verifiers import Candidate
from intermodal_core.errors import FailedPrecondition, IntermodalError, PermissionDenied, ResourceExhausted
from intermodal_core.registry import Registry
from intermodal_oci import references

__all__ = ["LABEL", "Verifying", "label_of"]

log = logging.getLogger("intermodal.images")

T = TypeVar("T")

#: On image records: the mode, and by whom the image was accepted or refused.
LABEL: Final = "intermodal.io/verification"
_LABEL_SIZE: Final = 2048
_LARGEST: Final = 8 << 20


class Verifying:
    """Asks the verifiers for the images manager."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry

    async def admit(
        self, scope: Scope, name: str, target: Descriptor, labels: dict[str, str], access: Access, host: str = ""
    ) -> Decision:
        """What comes of it. Raises PermissionDenied where the image must not be used."""
        mode, why = await self._store.choose("verification", scope.named, name, labels)
        candidate = Candidate(scope.named, name, target, host)
        judged = await self._judge(candidate, access) if mode != "off" else ()
        admitted = mode != "enforce" or (bool(judged) and all(each.accepted for each in judged))
        decision = Decision(mode, why, admitted, judged)
        await self._tell(scope, candidate, decision)
        if not admitted:
            reasons = "; ".join(f"{each.verifier}: {each.reason}" for each in judged if not each.accepted)
            raise PermissionDenied(
                f"{name} is refused, since verification is enforced ({why}): "
                + (reasons or f"no verifier is in use ({self._absent()})")
            )
        return decision

    def _absent(self) -> str:
        return "; ".join(record.why_not() for record in self._registry.records("verifiers")) or "none is installed"

    async def _judge(self, candidate: Candidate, access: Access) -> tuple[Judged, ...]:
        """The verdicts of all verifiers in use; one that fails has refused."""
        source = await self._registry.require("image_sources")
        loop = asyncio.get_running_loop()
        judged = []
        for record in self._registry.records("verifiers"):
            if record.state == "disabled":
                continue
            try:
                await self._registry.load(record)
                if record.state == "skipped":
                    continue  # it cannot run here, and says so itself
                verifier = await self._registry.require("verifiers", record.name)
                verdict = await verifier.verify(candidate, _Evidence(loop, source, candidate, access))
                judged.append(Judged(record.name, verdict.accepted, verdict.reason, verdict.signer))
            except IntermodalError as error:
                judged.append(Judged(record.name, False, f"it could not be asked: {error}"))
        return tuple(judged)

    async def _tell(self, scope: Scope, candidate: Candidate, decision: Decision) -> None:
        if decision.mode == "off":
            return
        level = logging.INFO if decision.admitted else logging.WARNING
        for each in decision.judged:
            word = "accepts" if each.accepted else "refuses"
            log.log(
                level,
                "verification (%s) of %s: %s %s: %s",
                decision.mode,
                candidate.name,
                each.verifier,
                word,
                each.reason,
            )
        message = events.ImageVerified(
            name=candidate.name,
            digest=candidate.target.digest,
            mode=decision.mode,
            why=decision.why,
            admitted=decision.admitted,
            verdicts=[
                events.Verdict(verifier=each.verifier, accepted=each.accepted, reason=each.reason, signer=each.signer)
                for each in decision.judged
            ],
        )
        await self._store.write(lambda tx: self._store.emit(tx, scope.named, "/images/verify", message))


def label_of(decision: Decision) -> dict[str, str]:
    """What is kept with the image."""
    verdicts = ", ".join(f"{each.verifier} {'accepts' if each.accepted else 'refuses'}" for each in decision.judged)
    return {LABEL: f"{decision.mode}: {verdicts}"[:_LABEL_SIZE]} if decision.judged else {}


class _Evidence:
    """Implements `intermodal_core.contracts.verifiers.Evidence` on the thread of a verifier's call."""

    def __init__(self, loop: asyncio.AbstractEventLoop, source: Any, candidate: Candidate, access: Access) -> None:
        self._loop = loop
        self._source = source
        self._candidate = candidate
        self._access = access
        self._repository = references.parse(candidate.name).name

    def resolve(self, tag: str) -> Descriptor:
        """What a tag points at."""
        resolved = self._wait(self._source.resolve(f"{self._repository}:{tag}", self._access))
        target: Descriptor = resolved.target
        return target

    def referrers(self, artifact_type: str = "") -> list[Descriptor]:
        """What refers to the candidate."""
        digest = self._candidate.target.digest
        found: list[Descriptor] = self._wait(
            self._source.referrers(self._candidate.name, digest, artifact_type, self._access)
        )
        return found

    def read(self, target: Descriptor) -> bytes:
        """A document or blob, whose digest is right."""
        return self._wait(self._read(target))

    async def _read(self, target: Descriptor) -> bytes:
        if target.size > _LARGEST:
            raise ResourceExhausted(f"{target.digest} has {target.size} bytes, too many for evidence")
        references.validate_digest(target.digest)
        body = await self._source.fetch(self._candidate.name, target, access=self._access)
        data = bytearray()
        try:
            async for piece in body:
                data += piece
                if len(data) > _LARGEST:
                    raise ResourceExhausted(f"{target.digest} has more than {_LARGEST} bytes, too many for evidence")
        finally:
            await body.aclose()
        algorithm, _, wanted = target.digest.partition(":")
        if hashlib.new(algorithm, data).hexdigest() != wanted:
            raise FailedPrecondition(f"{body.host} sent other bytes as {target.digest}")
        return bytes(data)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
