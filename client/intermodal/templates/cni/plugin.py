"""The adapter: the CNI type `sample`."""

from __future__ import annotations

from intermodal_core.plugin import Context, NoConfig, Plugin

from intermodal_sample.cni import SampleType

__all__ = ["plugin"]


def _make(context: Context[NoConfig]) -> SampleType:
    return SampleType()


plugin = Plugin(factory=_make, contract=1)
