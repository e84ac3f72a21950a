"""Keys, and signatures as cosign writes them with a key: made here, since the program itself is not in Debian."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from intermodal_core.contracts.common import Descriptor
from intermodal_oci.model import OCI_CONFIG, OCI_MANIFEST

__all__ = ["KINDS", "SIMPLE_SIGNING", "Kind", "new_key", "payload_of", "public", "sign", "signature_manifest"]

Kind = Literal["ecdsa", "rsa", "ed25519"]
KINDS: tuple[Kind, ...] = ("ecdsa", "rsa", "ed25519")
SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
ARTIFACT = "application/vnd.dev.cosign.artifact.sig.v1+json"


def new_key(kind: Kind) -> Any:
    """A private key."""
    if kind == "ecdsa":
        return ec.generate_private_key(ec.SECP256R1())
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    return ed25519.Ed25519PrivateKey.generate()


def public(key: Any, path: Path) -> Path:
    """Write the public half as PEM."""
    encoding = serialization.Encoding.PEM
    path.write_bytes(key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo))
    return path


def payload_of(digest: str, reference: str = "registry.example/team/image") -> bytes:
    """What is signed for an image."""
    critical = {
        "identity": {"docker-reference": reference},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
    }
    return json.dumps({"critical": critical, "optional": None}).encode()


def sign(key: Any, payload: bytes) -> str:
    """The signature, as its annotation holds it."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        made = key.sign(payload, ec.ECDSA(hashes.SHA256()))
    elif isinstance(key, rsa.RSAPrivateKey):
        made = key.sign(payload, padding.PKCS1v15(), hashes.SHA256())
    else:
        made = key.sign(payload)
    return base64.b64encode(made).decode()


def descriptor(media_type: str, data: bytes) -> Descriptor:
    return Descriptor(media_type, f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))


def signature_manifest(payload: bytes, signature: str, subject: Descriptor | None = None) -> bytes:
    """The manifest that holds one signature; with `subject` as a referrer has it."""
    config, layer = descriptor(OCI_CONFIG, b"{}"), descriptor(SIMPLE_SIGNING, payload)
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": config.media_type, "digest": config.digest, "size": config.size},
        "layers": [
            {
                "mediaType": layer.media_type,
                "digest": layer.digest,
                "size": layer.size,
                "annotations": {"dev.cosignproject.cosign/signature": signature},
            }
        ],
    }
    if subject is not None:
        manifest["artifactType"] = ARTIFACT
        manifest["subject"] = {"mediaType": subject.media_type, "digest": subject.digest, "size": subject.size}
    return json.dumps(manifest).encode()
