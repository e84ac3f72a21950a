"""The entry point `cosign` of `intermodal.verifiers`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from intermodal_core.errors import PluginSkipped
from intermodal_core.plugin import Context, Plugin

__all__ = ["Config", "plugin"]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the verifier."""

    keys: Annotated[
        tuple[str, ...],
        msgspec.Meta(
            description="Files with public keys (PEM: ECDSA P-256, RSA, Ed25519); a signature of one of them will do"
        ),
    ] = ()
    match_reference: Annotated[
        bool, msgspec.Meta(description="Whether the repository that was signed for must be the one that is pulled from")
    ] = False


def _make(context: Context[Config]) -> object:
    config = context.config
    if not config.keys:
        raise PluginSkipped(
            "no public key is configured to verify signatures with",
            f'Set keys = ["/etc/intermodal/cosign.pub"] in [verifiers.{context.name}], or use another verifier',
        )
    from intermodal_cosign.verifier import CosignVerifier, read_key

    keys = [read_key(Path(path)) for path in config.keys]
    return CosignVerifier(keys, match_reference=config.match_reference)


plugin = Plugin(factory=_make, config=Config)
