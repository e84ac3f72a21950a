"""The methods of the control protocol: each checks its parameters and calls a manager. See docs/control-protocol.md."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from intermodal_core import __version__
from intermodal_core.contracts.managers.images import FromRootfs, Images
from intermodal_core.contracts.managers.tasks import Composite, ExecOptions, RunOptions, Tasks
from intermodal_core.errors import FailedPrecondition, InvalidArgument, NotFound
from intermodal_core.plugin import Context

from intermodal_control.logs import send_logs
from intermodal_control.processes import follow, stdio
from intermodal_control.server import Call, Method

__all__ = ["Methods"]


class Params(msgspec.Struct, forbid_unknown_fields=True):
    """Parameters of a call; one that is not known is refused."""


class Nothing(Params):
    """No parameters."""


class ImportImages(Params):
    """`images.import`: an archive comes as a descriptor. `unpack`: a snapshotter, "" the default, null none."""

    names: tuple[str, ...] = ()
    platform: str = ""
    unpack: str | None = ""


class NamedImage(Params):
    """`images.remove`."""

    image: str


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


class Subscribe(Params):
    """`events.subscribe`: those that match a filter, after the sequence number `since`."""

    filters: tuple[str, ...] = ()
    since: int | None = None
    all_namespaces: bool = False


class Methods:
    """`table`: method name to what answers it.

    The managers are looked up at each call: while one is not ready, the calls that need it say why, and the others work.
    """

    def __init__(self, context: Context[Any]) -> None:
        self._context = context
        self._events = context.events
        self._registry = context.registry

    @property
    def _images(self) -> Images:
        images: Images = self._context.get("managers", "images")
        return images

    @property
    def _tasks(self) -> Tasks:
        tasks: Tasks = self._context.get("managers", "tasks")
        return tasks

    @property
    def _containers(self) -> Composite:
        composite: Composite = self._context.get("managers", "tasks").composite
        return composite

    def table(self) -> dict[str, Method]:
        """The rows. `cancel`: the client's closing ends it, of a process until it has started; all else goes on without it."""
        return {
            "version": Method(self._version),
            "plugins.list": Method(self._plugins),
            "images.import": Method(self._import, cancel=True),
            "images.from_rootfs": Method(self._from_rootfs, cancel=True),
            "images.list": Method(self._list_images, cancel=True),
            "images.remove": Method(self._remove_image),
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
            "events.subscribe": Method(self._subscribe, cancel=True),
        }

    # The daemon.

    async def _version(self, call: Call) -> Any:
        call.params(Nothing)
        core = self._registry.config.core
        return {
            "version": __version__,
            "pid": os.getpid(),
            "address": core.address,
            "root": core.root,
            "state": core.state,
        }

    async def _plugins(self, call: Call) -> Any:
        call.params(Nothing)
        return [
            {
                "kind": record.kind,
                "name": record.name,
                "plugin": record.plugin_id,
                "state": record.state,
                "code": record.code,
                "reason": record.reason,
                "remedy": record.remedy,
                "distribution": record.found.distribution if record.found else "",
                "capabilities": record.plugin.capabilities if record.plugin else (),
                "seconds": round(record.seconds, 4),
            }
            for record in self._registry.records()
        ]

    async def _subscribe(self, call: Call) -> None:
        params = call.params(Subscribe)
        async with self._events.subscribe(list(params.filters), since=params.since) as subscription:
            await call.event({"subscribed": True})
            async for event in subscription:
                if params.all_namespaces or event.namespace == call.scope.namespace:
                    await call.event(
                        {
                            "sequence": event.sequence,
                            "timestamp": event.timestamp,
                            "namespace": event.namespace,
                            "topic": event.topic,
                            "type": event.type_url,
                            "fields": dict(self._events.fields(event)),
                        }
                    )

    # Images.

    async def _import(self, call: Call) -> Any:
        params = call.params(ImportImages)
        if len(call.descriptors) != 1:
            raise InvalidArgument("images.import takes one descriptor, of the archive")
        async with call.progress() as report:
            return await self._images.import_archive(
                call.scope,
                call.descriptors[0],
                names=params.names,
                platform=params.platform,
                unpack=params.unpack,
                report=report,
            )

    async def _from_rootfs(self, call: Call) -> Any:
        request = call.params(FromRootfs)
        async with call.progress() as report:
            return await self._images.from_rootfs(call.scope, request, report=report)

    async def _list_images(self, call: Call) -> Any:
        call.params(Nothing)
        return await self._images.select(call.scope)

    async def _remove_image(self, call: Call) -> Any:
        return await self._images.remove(call.scope, call.params(NamedImage).image)

    # Containers.

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
