"""The adapter: `[snapshotters.sample]` of the config."""

from __future__ import annotations

from typing import Annotated

import msgspec
from intermodal_core.plugin import Context, Plugin

from intermodal_sample.snapshotter import SampleSnapshotter

__all__ = ["Config", "plugin"]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of `[snapshotters.sample]`."""

    sync: Annotated[bool, msgspec.Meta(description="Whether a commit waits until its files are on the disk.")] = True


def _make(context: Context[Config]) -> SampleSnapshotter:
    return SampleSnapshotter(context.root_dir(), sync=context.config.sync)


plugin = Plugin(factory=_make, config=Config, contract=1)
