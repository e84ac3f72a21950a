"""A runtime with the command line of runc (crun, youki, runc itself), driven by the shim library."""

from __future__ import annotations

from intermodal_core.contracts.runtimes import TaskRef
from intermodal_core.errors import Unimplemented
from intermodal_shim.driver import ShimRuntime

__all__ = ["CAPABILITIES", "SampleRuntime"]

#: What the shim can do with every such runtime. Leave out what the runtime of yours has no command for.
CAPABILITIES = ("exec", "pause", "update", "stats", "terminal", "attach", "processes")


class SampleRuntime(ShimRuntime):
    """Implements `intermodal_core.contracts.runtimes.Runtime`.

    A shim a task holds its processes and their streams, and outlives the daemon. What is different in this runtime is
    a method here.
    """

    async def checkpoint(self, task: TaskRef, path: str, options_type: str = "", options: bytes = b"") -> None:
        """[R21] Not declared."""
        raise Unimplemented(f"this runtime takes no checkpoints; task {task.namespace}/{task.id} goes on unchanged")
