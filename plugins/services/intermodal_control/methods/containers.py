"""Methods about containers and their processes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from intermodal_core.contracts.managers.tasks import ExecOptions, RunOptions
from intermodal_core.errors import FailedPrecondition, NotFound

from intermodal_control.logs import send_logs
from intermodal_control.methods.room import Params, Room
from intermodal_control.processes import follow, stdio
from intermodal_control.server import Call, Method

__all__ = ["ContainerMethods"]


class RunContainer(Params):
    """`containers.run`; with descriptors in the foreground."""

    options: RunOptions
    timings: bool = False


class CreateContainer(Params):
    """`containers.create`."""

    options: RunOptions


class NamedContainer(Params):
    """A container by id or the first characters of one."""

    container: str


class StartContainer(NamedContainer):
    """`containers.start`; with descriptors in the foreground."""

    timings: bool = False


class ExecContainer(NamedContainer):
    """`containers.exec`; with descriptors in the foreground."""

    options: ExecOptions


class ListContainers(Params):
    """`containers.list`: those that run, or all."""

    all: bool = False


class KillContainer(NamedContainer):
    """`containers.kill`."""

    signal: int
    all: bool = False


class StopContainer(NamedContainer):
    """`containers.stop`; seconds."""

    timeout: float = 10.0


class RemoveContainer(NamedContainer):
    """`containers.remove`."""

    force: bool = False


class ReadLogs(NamedContainer):
    """`containers.logs`."""

    follow: bool = False


class ContainerMethods(Room):
    """`containers.*`."""

    def table(self) -> dict[str, Method]:
        """The rows."""
        return {
            "containers.run": Method(self._run, cancel=True),
            "containers.create": Method(self._create, cancel=True),
            "containers.start": Method(self._start, cancel=True),
            "containers.exec": Method(self._exec, cancel=True),
            "containers.list": Method(self._list_containers, cancel=True),
            "containers.get": Method(self._on("get"), cancel=True),
            "containers.inspect": Method(self._on("inspect"), cancel=True),
            "containers.logs": Method(self._logs, cancel=True),
            "containers.wait": Method(self._wait, cancel=True),
            "containers.pause": Method(self._on("pause")),
            "containers.resume": Method(self._on("resume")),
            "containers.kill": Method(self._kill),
            "containers.stop": Method(self._stop),
            "containers.remove": Method(self._remove),
        }

    async def _run(self, call: Call) -> Any:
        params = call.params(RunContainer)
        process = await self._containers.run(call.scope, params.options, stdio(call))
        return await follow(call, process, self._containers, params.timings)

    async def _create(self, call: Call) -> Any:
        container = await self._containers.create(call.scope, call.params(CreateContainer).options)
        return {"container": container.id}

    async def _start(self, call: Call) -> Any:
        params = call.params(StartContainer)
        process = await self._containers.start(call.scope, params.container, stdio(call))
        return await follow(call, process, self._containers, params.timings)

    async def _exec(self, call: Call) -> Any:
        params = call.params(ExecContainer)
        process = await self._containers.exec(call.scope, params.container, params.options, stdio(call))
        return await follow(call, process, self._containers)

    async def _list_containers(self, call: Call) -> Any:
        return await self._containers.select(call.scope, all=call.params(ListContainers).all)

    async def _logs(self, call: Call) -> None:
        params = call.params(ReadLogs)
        await send_logs(call, params.container, params.follow, self._containers, self._tasks)

    async def _wait(self, call: Call) -> Any:
        view = await self._containers.get(call.scope, call.params(NamedContainer).container)
        if view.status == "stopped":
            return {"status": view.exit_code}
        try:
            return {"status": (await self._tasks.wait(call.scope, view.id)).status}
        except NotFound:
            view = await self._containers.get(call.scope, view.id)
            if view.status == "stopped":  # it ended between the two calls
                return {"status": view.exit_code}
            raise FailedPrecondition(f"the container {view.id} does not run: start it first") from None

    async def _kill(self, call: Call) -> None:
        params = call.params(KillContainer)
        await self._containers.kill(call.scope, params.container, params.signal, params.all)

    async def _stop(self, call: Call) -> Any:
        params = call.params(StopContainer)
        return {"status": await self._containers.stop(call.scope, params.container, params.timeout)}

    async def _remove(self, call: Call) -> None:
        params = call.params(RemoveContainer)
        await self._containers.remove(call.scope, params.container, params.force)

    def _on(self, verb: str) -> Callable[[Call], Awaitable[Any]]:
        """A method that takes the container alone."""

        async def run(call: Call) -> Any:
            container = call.params(NamedContainer).container
            return await getattr(self._containers, verb)(call.scope, container)

        return run
