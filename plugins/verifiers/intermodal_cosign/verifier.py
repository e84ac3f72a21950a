"""Signatures as cosign writes them with a key ("simple signing"): a payload that names a digest, signed, beside the image.

They are found under the tag `sha256-HEX.sig` and among the image's referrers (OCI 1.1). Each is a manifest whose layers are
payloads, each with its signature in an annotation. A payload is believed when a configured key has signed it and it names
the digest in question.

Public source followed: the cosign project's signature specification (SIGNATURE_SPEC.md).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from intermodal_core.contracts.common import Descriptor
from intermodal_core.contracts.verifiers import Candidate, Evidence, Verdict
from intermodal_core.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted, from_os_error
from intermodal_oci import references
from intermodal_oci.model import decode_manifest, is_manifest

__all__ = ["ARTIFACT", "SIGNATURE", "SIMPLE_SIGNING", "CosignVerifier", "Key", "read_key"]

SIMPLE_SIGNING: Final = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE: Final = "dev.cosignproject.cosign/signature"
ARTIFACT: Final = "application/vnd.dev.cosign.artifact.sig.v1+json"
#: Signatures that are looked at for one image; whoever can write to a repository could add any number.
_MOST: Final = 64
_MALFORMED: Final = (InvalidArgument, NotFound, FailedPrecondition, ResourceExhausted)

_PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey


class Key(NamedTuple):
    """A public key and the name that people know it by: its file's."""

    name: str
    key: _PublicKey

    def signed(self, payload: bytes, signature: bytes) -> bool:
        """Whether the signature is this key's, of this payload."""
        try:
            if isinstance(self.key, ec.EllipticCurvePublicKey):
                self.key.verify(signature, payload, ec.ECDSA(hashes.SHA256()))
            elif isinstance(self.key, rsa.RSAPublicKey):
                self.key.verify(signature, payload, padding.PKCS1v15(), hashes.SHA256())
            else:
                self.key.verify(signature, payload)
        except InvalidSignature:
            return False
        return True


def read_key(path: Path) -> Key:
    """A public key from a PEM file. Raises NotFound, InvalidArgument for one that is none or of another kind."""
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise from_os_error(error, f"reading the key {path}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidArgument(f"{path} is no public key in PEM form: {error}") from None
    curve = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
    if not (curve or isinstance(key, rsa.RSAPublicKey | ed25519.Ed25519PublicKey)):
        raise InvalidArgument(f"{path} must be a key of ECDSA P-256, RSA or Ed25519")
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < 2048:
        raise InvalidArgument(f"{path} is an RSA key of {key.key_size} bits: at least 2048 are safe")
    return Key(str(path), key)  # type: ignore[arg-type]


class CosignVerifier:
    """Implements `intermodal_core.contracts.verifiers.Verifier`: one signature of one of `keys` will do.

    With `match_reference` a payload must name the candidate's repository as well.
    """

    def __init__(self, keys: Sequence[Key], *, match_reference: bool = False) -> None:
        self._keys = keys
        self._match_reference = match_reference

    def verify(self, candidate: Candidate, evidence: Evidence) -> Verdict:
        """See the contract."""
        seen = 0
        faults: list[str] = []
        for manifest in self._manifests(candidate, evidence):
            try:
                layers = decode_manifest(evidence.read(manifest), manifest.digest).layers
            except _MALFORMED as error:
                faults.append(f"{manifest.digest[:19]}: {error}")
                continue
            for layer in layers:
                if layer.media_type != SIMPLE_SIGNING:
                    continue
                if seen == _MOST:
                    return Verdict(
                        False, f"{candidate.name} has more than {_MOST} signatures, and none of the first is right"
                    )
                seen += 1
                key, fault = self._examine(candidate, evidence, layer)
                if key is not None:
                    return Verdict(True, f"signed by the key {key.name}", key.name)
                faults.append(fault)
        names = ", ".join(key.name for key in self._keys)
        if not seen and not faults:
            return Verdict(
                False,
                f"{candidate.name} ({candidate.target.digest}) has no cosign signature; sign it with one of: {names}",
            )
        why = "; ".join(dict.fromkeys(faults))[:500]
        return Verdict(False, f"{candidate.name} ({candidate.target.digest}) has no signature of {names}: {why}")

    def _manifests(self, candidate: Candidate, evidence: Evidence) -> Iterator[Descriptor]:
        """Where signatures may be, each once."""
        known = set()
        tag = f"{candidate.target.digest.replace(':', '-', 1)}.sig"
        try:
            found = [evidence.resolve(tag)]
        except NotFound:
            found = []
        for manifest in [*found, *evidence.referrers(ARTIFACT)]:
            if manifest.digest not in known and is_manifest(manifest.media_type or ""):
                known.add(manifest.digest)
                yield manifest

    def _examine(self, candidate: Candidate, evidence: Evidence, layer: Descriptor) -> tuple[Key | None, str]:
        """The key that has signed this payload for this candidate; or what is wrong with it."""
        try:
            signature = base64.b64decode(layer.annotations.get(SIGNATURE, ""), validate=True)
            payload = evidence.read(layer)
        except binascii.Error:
            return None, "a signature that is not base64"
        except _MALFORMED as error:
            return None, f"a payload that cannot be read ({error})"
        key = next((key for key in self._keys if key.signed(payload, signature)), None)
        if key is None:
            return None, "a signature of another key"
        # Only what was signed is read.
        try:
            critical = json.loads(payload)["critical"]
            digest = critical["image"]["docker-manifest-digest"]
            reference = critical.get("identity", {}).get("docker-reference", "")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None, "a payload that is malformed"
        if digest != candidate.target.digest:
            return None, "a signature of another image"
        if self._match_reference and not _same_repository(reference, candidate.name):
            return None, f"a signature for another repository ({str(reference)[:100]!r})"
        return key, ""


def _same_repository(signed: object, name: str) -> bool:
    try:
        return isinstance(signed, str) and references.parse(signed).name == references.parse(name).name
    except InvalidArgument:
        return False
