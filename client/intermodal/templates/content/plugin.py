"""The adapter: `[content.sample]` of the config."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from intermodal_core.plugin import Context, Plugin

from intermodal_sample.content import SampleStore

__all__ = ["Config", "plugin"]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of `[content.sample]`."""

    path: Annotated[
        str, msgspec.Meta(description="The directory of the store; empty: the instance's own directory.")
    ] = ""


def _make(context: Context[Config]) -> SampleStore:
    return SampleStore(Path(context.config.path) if context.config.path else context.root_dir())


plugin = Plugin(factory=_make, config=Config, contract=1)
