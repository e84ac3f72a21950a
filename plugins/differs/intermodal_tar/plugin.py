"""The entry point `tar` of `intermodal.differs`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from intermodal_core.contracts.differs import ApplyLimits
from intermodal_core.plugin import Context, Plugin

__all__ = ["Config", "plugin"]

_DEFAULTS = ApplyLimits()


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the tar differ."""

    devices: Annotated[
        Literal["allow", "deny"],
        msgspec.Meta(description="Whether a layer may hold device nodes, as containerd lets it"),
    ] = "allow"
    sync: Annotated[bool, msgspec.Meta(description="Write the filesystem to disk after each layer")] = False
    timeout: Annotated[float, msgspec.Meta(ge=0, description="Seconds that one layer may take; 0: any time")] = 0
    max_bytes: Annotated[int, msgspec.Meta(gt=0, description="Most bytes that one layer may unpack to")] = (
        _DEFAULTS.bytes
    )
    max_files: Annotated[int, msgspec.Meta(gt=0, description="Most entries of one layer")] = _DEFAULTS.files
    max_depth: Annotated[int, msgspec.Meta(gt=0, description="Deepest directory of one layer")] = _DEFAULTS.depth
    max_ratio: Annotated[
        int, msgspec.Meta(gt=0, description="Most bytes unpacked for a byte of a layer, once they are 64 MiB")
    ] = _DEFAULTS.ratio


def _make(context: Context[Config]) -> object:
    from intermodal_tar.differ import TarDiffer

    config = context.config
    return TarDiffer(
        context.spawner,
        context.state / "mount",
        limits=ApplyLimits(config.max_bytes, config.max_files, config.max_depth, config.max_ratio),
        devices=config.devices == "allow",
        sync=config.sync,
        timeout=config.timeout,
    )


plugin = Plugin(factory=_make, config=Config, forked=("intermodal_tar.worker",), capabilities=("alone", "compare"))
