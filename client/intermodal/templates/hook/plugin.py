"""The adapter: `[hooks.sample]` of the config."""

from __future__ import annotations

from typing import Annotated

import msgspec
from intermodal_core.plugin import Context, Plugin

from intermodal_sample.hooks import SampleHooks

__all__ = ["Config", "plugin"]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of `[hooks.sample]`."""

    environment: Annotated[dict[str, str], msgspec.Meta(description="Added to the environment of containers.")] = {}
    refused: Annotated[tuple[str, ...], msgspec.Meta(description="Prefixes of references that may not be pulled.")] = ()


def _make(context: Context[Config]) -> SampleHooks:
    return SampleHooks(context.config.environment, context.config.refused)


plugin = Plugin(factory=_make, config=Config, contract=1)
