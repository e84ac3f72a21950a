"""The adapter: `managers.tasks`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from intermodal_core.plugin import Context, Plugin

from intermodal_tasks.changes import Changes
from intermodal_tasks.composite import Composite
from intermodal_tasks.creation import Creation
from intermodal_tasks.lifecycle import Lifecycle
from intermodal_tasks.manager import Tasks
from intermodal_tasks.specs import Lookups

__all__ = ["Config", "TasksManager", "plugin"]


#: Seconds that each half-made swap has to go back after a crash.
_SWAP_BACK = 60.0


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of `[managers.tasks]`."""

    log_size: Annotated[
        int, msgspec.Meta(ge=4096, description="Bytes of a container's log file before it is rotated.")
    ] = 16 << 20
    log_files: Annotated[int, msgspec.Meta(ge=1, description="Log files kept for each container.")] = 5
    cgroup_parent: Annotated[
        str,
        msgspec.Meta(description="Where the cgroups of containers made by imod go; below it one for each namespace."),
    ] = ""


class TasksManager(Tasks):
    """The plain calls, and as `composite` what commands call."""

    def __init__(self, context: Context[Config]) -> None:
        store = context.get("managers", "store")
        networks = context.get("managers", "networks")
        state = context.state_dir()
        state.chmod(0o711)  # a container in a user namespace goes through it to its root file system
        super().__init__(store, context.registry, context.events, state / "bundles")
        self._lookups = Lookups(state / "lookups")
        creation = Creation(
            self.operations,
            store,
            context.get("managers", "images"),
            networks,
            context.registry,
            self._lookups,
            context.config.cgroup_parent,
        )
        self.composite = Composite(
            self,
            store,
            creation,
            networks,
            context.registry,
            self._lookups,
            context.root_dir() / "logs",
            f"?size={context.config.log_size}&files={context.config.log_files}",
        )

        changes = Changes(store, context.get("managers", "images"), self._lookups)
        self.lifecycle = Lifecycle(self, self.composite, store, changes, context.root_dir() / "checkpoints")

    async def __aenter__(self) -> TasksManager:
        """Take up what the last daemon left, in the background: sockets serve meanwhile."""
        self._lookups.clean()
        await self.begin_adopting()
        self._background.begin(self._recover())
        return self

    async def _recover(self) -> None:
        await self.adopted()
        await self.lifecycle.recover(_SWAP_BACK)
        await self.composite.recover()

    async def __aexit__(self, *_: object) -> None:
        """Stop watching; tasks live on."""
        await self.composite.restarts.close()
        await self.lifecycle.close()
        await self.close()


plugin = Plugin(
    factory=TasksManager,
    config=Config,
    requires=("managers.store", "managers.images", "managers.networks"),
)
