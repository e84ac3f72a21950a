"""runc, driven by our shim."""

from __future__ import annotations

from typing import TYPE_CHECKING

from intermodal_core.contracts.runtimes import TaskRef
from intermodal_core.errors import NotFound, PluginSkipped, Unimplemented
from intermodal_shim.driver import ShimRuntime
from intermodal_shim.runtime import Options, find

if TYPE_CHECKING:
    from intermodal_core.plugin import Context

    from intermodal_runc.plugin import Config

__all__ = ["RuncRuntime", "make_runtime"]


class RuncRuntime(ShimRuntime):
    """Our shim with what runc can do on every machine, which does not include checkpoints: they need CRIU."""

    async def checkpoint(self, task: TaskRef, path: str, options_type: str = "", options: bytes = b"") -> None:
        """[R21] Not declared."""
        raise Unimplemented(f"The runtime runc takes no checkpoints; task {task.namespace}/{task.id} goes on unchanged")


def make_runtime(context: Context[Config]) -> RuncRuntime:
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
    return RuncRuntime(context.name, context.spawner, context.state_dir(), events, options)
