"""The adapter: `[networks.sample]` of the config."""

from __future__ import annotations

from intermodal_core.plugin import Context, NoConfig, Plugin

from intermodal_sample.network import SampleNetwork

__all__ = ["plugin"]


def _make(context: Context[NoConfig]) -> SampleNetwork:
    return SampleNetwork()


plugin = Plugin(factory=_make, capabilities=("netns",), contract=1)
