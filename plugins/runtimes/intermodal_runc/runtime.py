"""runc, driven by our shim."""

from __future__ import annotations

from typing import TYPE_CHECKING

from intermodal_core.errors import NotFound, PluginSkipped
from intermodal_shim.driver import ShimRuntime
from intermodal_shim.runtime import Options, find

if TYPE_CHECKING:
    from intermodal_core.plugin import Context

    from intermodal_runc.plugin import Config

__all__ = ["make_runtime"]


def make_runtime(context: Context[Config]) -> ShimRuntime:
    """The runtime for a plugin's context. Raises PluginSkipped where there is no such binary."""
    config = context.config
    options = Options(
        binary=config.binary,
        root=config.root,
        systemd_cgroup=config.systemd_cgroup,
        no_pivot=config.no_pivot,
        no_new_keyring=config.no_new_keyring,
    )
    try:
        binary = find(config.binary)
    except NotFound as error:
        raise PluginSkipped(str(error), "install runc (apt-get install runc)") from error
    context.log.info("containers run under %s", binary)
    events = f"{context.address}.ttrpc"
    return ShimRuntime(context.name, context.spawner, context.state_dir(), events, options)
