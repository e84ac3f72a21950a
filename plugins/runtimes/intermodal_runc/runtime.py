"""runc, driven by our shim."""

from __future__ import annotations

from typing import TYPE_CHECKING

from intermodal_core.contracts.runtimes import TaskRef
from intermodal_core.errors import NotFound, PluginSkipped, Unimplemented
from intermodal_shim.runtime import Options, find
from intermodal_shim.shared import SharedShimRuntime

if TYPE_CHECKING:
    from intermodal_core.plugin import Context

    from intermodal_runc.plugin import Config

__all__ = ["RuncRuntime", "make_runtime"]


class RuncRuntime(SharedShimRuntime):
    """Our shim, and checkpoints where there is CRIU. `criu` is its path, or a name that is sought on PATH."""

    criu = "criu"

    async def checkpoint(self, task: TaskRef, path: str, options_type: str = "", options: bytes = b"") -> None:
        """[R21] By CRIU. Raises Unimplemented without one, before anything is done."""
        try:
            find(self.criu)
        except NotFound as error:
            raise Unimplemented(
                f"runc takes no checkpoints without CRIU, {task.namespace}/{task.id} goes on unchanged: {error}"
            ) from error
        await super().checkpoint(task, path, options_type, options)


def make_runtime(context: Context[Config]) -> RuncRuntime:
    """The runtime for a plugin's context. Raises PluginSkipped where there is no such binary."""
    config = context.config
    options = Options(
        binary=config.binary,
        root=config.root,
        systemd_cgroup=config.systemd_cgroup,
        no_pivot=config.no_pivot,
        no_new_keyring=config.no_new_keyring,
        flags=("--criu", config.criu) if config.criu else (),
    )
    try:
        binary = find(config.binary)
    except NotFound as error:
        raise PluginSkipped(str(error), "install runc (apt-get install runc)") from error
    context.log.info("containers run under %s", binary)
    events = f"{context.address}.ttrpc"
    runtime = RuncRuntime(context.name, context.spawner, context.state_dir(), events, options, sharing=config.sharing)
    runtime.criu = config.criu or runtime.criu
    return runtime
