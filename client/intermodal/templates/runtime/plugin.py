"""The adapter: `[runtimes.sample]` of the config."""

from __future__ import annotations

from typing import Annotated

import msgspec
from intermodal_core.errors import NotFound, PluginSkipped
from intermodal_core.plugin import Context, Plugin
from intermodal_shim.driver import FORKED
from intermodal_shim.runtime import Options, find

from intermodal_sample.runtime import CAPABILITIES, SampleRuntime

__all__ = ["Config", "plugin"]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of `[runtimes.sample]`."""

    binary: Annotated[
        str, msgspec.Meta(description="The runtime: an absolute path, or a name that is sought on the daemon's PATH.")
    ] = "runc"


def _make(context: Context[Config]) -> SampleRuntime:
    binary = context.config.binary
    try:
        context.exports["binary"] = find(binary)
    except NotFound as error:
        raise PluginSkipped(str(error), f"install {binary}, or name another one with binary = ...") from error
    events = f"{context.address}.ttrpc"
    return SampleRuntime(context.name, context.spawner, context.state_dir(), events, Options(binary=binary))


# `forked`: modules that the daemon's spawner has loaded, since their functions are forked.
plugin = Plugin(factory=_make, config=Config, forked=(FORKED,), capabilities=CAPABILITIES, contract=1)
