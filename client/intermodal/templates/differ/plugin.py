"""The adapter: `[differs.sample]` of the config."""

from __future__ import annotations

from intermodal_core.plugin import Context, NoConfig, Plugin
from intermodal_tar.differ import WORKER, TarDiffer

from intermodal_sample.differ import SampleDiffer

__all__ = ["plugin"]


def _make(context: Context[NoConfig]) -> SampleDiffer:
    return SampleDiffer(TarDiffer(context.spawner, context.state_dir() / "work"))


# `forked`: modules that the daemon's spawner has loaded, since their functions are forked.
plugin = Plugin(factory=_make, forked=(WORKER,), capabilities=("alone", "compare"), contract=1)
