"""The adapter: `[runtimes.runc]`, or any instance with `plugin = "runc"`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from intermodal_core.errors import NotFound, PluginSkipped
from intermodal_core.plugin import Context, Plugin
from intermodal_shim.driver import FORKED, ShimRuntime
from intermodal_shim.runtime import Options, find

__all__ = ["Config", "plugin"]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of a runc instance."""

    binary: Annotated[str, msgspec.Meta(description="The runc binary: a path, or a name looked up on PATH.")] = "runc"
    root: Annotated[str, msgspec.Meta(description="runc's own state directory; empty: in the instance's.")] = ""
    systemd_cgroup: Annotated[bool, msgspec.Meta(description="Let systemd manage cgroups.")] = False
    no_pivot: Annotated[bool, msgspec.Meta(description="Do not pivot_root (a root on ramfs needs it).")] = False
    no_new_keyring: Annotated[bool, msgspec.Meta(description="Share the caller's session keyring.")] = False


class RuncRuntime(ShimRuntime):
    """runc behind our shim, within the daemon's life."""

    async def __aenter__(self) -> RuncRuntime:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


def _make(context: Context[Config]) -> RuncRuntime:
    config = context.config
    try:
        find(config.binary)
    except NotFound as error:
        raise PluginSkipped(str(error), f"install runc, or set binary in [runtimes.{context.name}]") from error
    options = Options(config.binary, config.root, config.systemd_cgroup, config.no_pivot, config.no_new_keyring)
    return RuncRuntime(context.name, context.spawner, context.state_dir(), f"{context.address}.ttrpc", options)


plugin = Plugin(
    factory=_make,
    config=Config,
    forked=(FORKED,),
    capabilities=("exec", "pause", "update", "stats", "terminal", "attach"),
)
