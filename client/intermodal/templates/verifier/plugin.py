"""The adapter: `[verifiers.sample]` of the config."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from intermodal_core.errors import PluginSkipped
from intermodal_core.plugin import Context, Plugin

from intermodal_sample.verifier import SampleVerifier

__all__ = ["Config", "plugin"]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of `[verifiers.sample]`."""

    key: Annotated[str, msgspec.Meta(description="The file with the key.")] = "/etc/intermodal/sample.key"


def _make(context: Context[Config]) -> SampleVerifier:
    file = Path(context.config.key)
    try:
        key = file.read_bytes().strip()
    except OSError as error:
        raise PluginSkipped(f"the key cannot be read: {error}", f"write one to {file}, for root alone") from error
    return SampleVerifier(key)


plugin = Plugin(factory=_make, config=Config, contract=1)
