"""Methods about containers that are there: counters, limits, restarts, checkpoints, another runtime."""

from __future__ import annotations

from typing import Any

from intermodal_core.contracts.managers.lifecycle import UpdateOptions
from intermodal_core.errors import InvalidArgument

from intermodal_control.methods.containers import NamedContainer
from intermodal_control.methods.room import Params, Room
from intermodal_control.processes import follow, stdio
from intermodal_control.server import Call, Method

__all__ = ["LifecycleMethods"]


class RestartContainer(NamedContainer):
    """`containers.restart`; seconds until SIGKILL."""

    timeout: float = 10.0


class UpdateContainer(NamedContainer):
    """`containers.update`."""

    options: UpdateOptions


class CountContainers(Params):
    """`containers.stats`: of these, or of all that run."""

    containers: tuple[str, ...] = ()


class CheckpointContainer(NamedContainer):
    """`containers.checkpoint`."""

    name: str = "default"
    leave_running: bool = False


class RestoreContainer(NamedContainer):
    """`containers.restore`."""

    name: str = "default"


class SwapContainer(NamedContainer):
    """`containers.swap`."""

    runtime: str = ""
    snapshotter: str = ""
    dry_run: bool = False


class LifecycleMethods(Room):
    """`containers.*`, the rest of them."""

    def table(self) -> dict[str, Method]:
        """The rows."""
        return {
            "containers.restart": Method(self._restart),
            "containers.attach": Method(self._attach, cancel=True),
            "containers.update": Method(self._update),
            "containers.stats": Method(self._stats, cancel=True),
            "containers.top": Method(self._top, cancel=True),
            "containers.diff": Method(self._diff, cancel=True),
            "containers.checkpoint": Method(self._checkpoint),
            "containers.restore": Method(self._restore),
            "containers.swap": Method(self._swap),
        }

    async def _restart(self, call: Call) -> None:
        params = call.params(RestartContainer)
        await self._lifecycle.restart(call.scope, params.container, params.timeout)

    async def _attach(self, call: Call) -> Any:
        params = call.params(NamedContainer)
        fds = stdio(call)
        if fds is None:
            raise InvalidArgument("attach takes the descriptors to attach: stdout and stderr, or stdin before them")
        process = await self._lifecycle.attach(call.scope, params.container, fds)
        return await follow(call, process, self._containers)

    async def _update(self, call: Call) -> None:
        params = call.params(UpdateContainer)
        await self._lifecycle.update(call.scope, params.container, params.options)

    async def _stats(self, call: Call) -> Any:
        return await self._lifecycle.stats(call.scope, call.params(CountContainers).containers)

    async def _top(self, call: Call) -> Any:
        return await self._lifecycle.top(call.scope, call.params(NamedContainer).container)

    async def _diff(self, call: Call) -> Any:
        return await self._lifecycle.diff(call.scope, call.params(NamedContainer).container)

    async def _checkpoint(self, call: Call) -> Any:
        params = call.params(CheckpointContainer)
        path = await self._lifecycle.checkpoint(call.scope, params.container, params.name, params.leave_running)
        return {"path": path}

    async def _restore(self, call: Call) -> None:
        params = call.params(RestoreContainer)
        await self._lifecycle.restore(call.scope, params.container, params.name)

    async def _swap(self, call: Call) -> Any:
        params = call.params(SwapContainer)
        return await self._lifecycle.swap(
            call.scope, params.container, params.runtime, params.snapshotter, params.dry_run
        )
