"""The entry point `shimv2` of `intermodal.runtimes`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from intermodal_core.plugin import Context, Plugin

__all__ = ["Config", "plugin"]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the runtime."""

    binary: Annotated[
        str,
        msgspec.Meta(
            description="The shim: an absolute path, a file's name, or io.containerd.NAME.vN for containerd-shim-NAME-vN;"
            " names are sought on the daemon's PATH"
        ),
    ] = "io.containerd.runc.v2"
    options_type: Annotated[
        Literal["", "containerd.runc.v1.Options", "runtimeoptions.v1.Options"],
        msgspec.Meta(description="The message that `options` are sent to the shim as; '' is none"),
    ] = ""
    options: Annotated[
        dict[str, Any],
        msgspec.Meta(description="Fields of that message, as {type_url = '...', config_path = '/etc/...'}"),
    ] = {}
    bootstrap: Annotated[
        Literal["auto", "options", "params"],
        msgspec.Meta(
            description="What the shim reads when it is started: its options, or, since containerd 2.3, parameters"
            " that hold them; auto finds out"
        ),
    ] = "auto"
    start_within: Annotated[
        float,
        msgspec.Meta(gt=0, le=300, description="Seconds that the shim has to start, and to answer to a connection"),
    ] = 10.0
    call_within: Annotated[
        float,
        msgspec.Meta(
            gt=0, description="Seconds that the shim has to answer a call, but for those that wait or checkpoint"
        ),
    ] = 60.0
    debug: Annotated[bool, msgspec.Meta(description="Have the shim log more")] = False


def _make(context: Context[Config]) -> object:
    from intermodal_shimv2.runtime import make_runtime

    return make_runtime(context)


plugin = Plugin(
    factory=_make,
    config=Config,
    forked=("intermodal_shimv2.worker",),
    capabilities=("exec", "pause", "update", "stats", "checkpoint", "terminal", "attach", "pids", "any-shim"),
)
