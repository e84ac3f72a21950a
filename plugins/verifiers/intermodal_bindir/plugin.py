"""The entry point `bindir` of `intermodal.verifiers`: a directory of verifier programs, as containerd has it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from intermodal_core.errors import PluginSkipped
from intermodal_core.plugin import Context, Plugin

__all__ = ["Config", "plugin"]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the verifier."""

    bin_dir: Annotated[
        str, msgspec.Meta(description="The directory; every file in it is a program, and all must accept an image")
    ] = "/opt/containerd/image-verifier/bin"
    max_verifiers: Annotated[
        int, msgspec.Meta(description="How many are run, the first in order of their names; below 0: all")
    ] = 10
    per_verifier_timeout: Annotated[float, msgspec.Meta(gt=0, description="Seconds that one may take")] = 10


def _make(context: Context[Config]) -> object:
    from intermodal_bindir.verifier import BinDirVerifier, programs

    config = context.config
    directory = Path(config.bin_dir)
    if not programs(directory):
        raise PluginSkipped(
            f"there are no verifier programs in {directory}",
            f"Put one there, or name another directory by bin_dir in [verifiers.{context.name}]",
        )
    return BinDirVerifier(directory, context.spawner, most=config.max_verifiers, timeout=config.per_verifier_timeout)


plugin = Plugin(factory=_make, config=Config)
