"""The adapter: `[image_sources.sample]` of the config."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from intermodal_core.plugin import Context, Plugin

from intermodal_sample.source import SampleSource

__all__ = ["Config", "plugin"]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of `[image_sources.sample]`."""

    host: Annotated[str, msgspec.Meta(description="What names of it begin with.")] = "sample.local"
    root: Annotated[str, msgspec.Meta(description="The directory of layouts; empty: the instance's own.")] = ""


def _make(context: Context[Config]) -> SampleSource:
    root = Path(context.config.root) if context.config.root else context.root_dir()
    return SampleSource(root, context.config.host)


plugin = Plugin(factory=_make, config=Config, contract=1)
