"""Containers: `client.containers`."""

import secrets
from collections.abc import Sequence
from functools import partial
from typing import Literal, Unpack, overload

from intermodal_api.containerd.services import containers_pb2, snapshots_pb2, tasks_pb2
from intermodal_core.contracts.common import Mount
from intermodal_core.errors import NotFound
from intermodal_oci import platforms
from intermodal_oci.references import validate_identifier

from intermodal import _api
from intermodal._async.channel import AsyncChannel
from intermodal._async.container import AsyncContainer
from intermodal._async.elsewhere import other_namespaces
from intermodal._async.images import AsyncImage
from intermodal._async.leases import lease
from intermodal._async.resolving import get_record, remove_snapshot, resolve, unpack
from intermodal._async.settings import default_runtime, default_snapshotter
from intermodal._async.tasks import get_task
from intermodal._creation import ContainerOptions, as_any, make_labels, make_spec
from intermodal._models import Output
from intermodal._rootfs import with_rootfs


class AsyncContainers:
    """The containers of a namespace."""

    def __init__(self, channel: AsyncChannel) -> None:
        self._channel = channel

    async def get(self, name: str) -> AsyncContainer:
        """The container called `name`. Raises NotFound, which names other namespaces that have one."""
        request = containers_pb2.GetContainerRequest(id=name)
        try:
            record = (await self._channel.call(_api.CONTAINER_GET, request)).container
        except NotFound:
            elsewhere = await other_namespaces(self._channel, _api.CONTAINER_GET, request)
            where = f"in the namespace {self._channel.namespace}{elsewhere}"
            raise NotFound(f"There is no container {name} {where}") from None
        return AsyncContainer(self._channel, record, await get_task(self._channel, name))

    async def list(self, filters: Sequence[str] = (), *, all: bool = True) -> Sequence[AsyncContainer]:
        """Those that match any of the filters (containerd's grammar, such as `labels.app==web`), by name.

        Without `all` only those whose init has not ended.
        """
        answer = await self._channel.call(_api.CONTAINER_LIST, containers_pb2.ListContainersRequest(filters=filters))
        tasks = (await self._channel.call(_api.TASK_LIST, tasks_pb2.ListTasksRequest())).tasks
        by_container = {task.container_id or task.id: task for task in tasks}
        found = [
            AsyncContainer(self._channel, record, by_container.get(record.id))
            for record in sorted(answer.containers, key=lambda each: each.id)
        ]
        return found if all else [each for each in found if each.status in ("running", "paused")]

    async def create(
        self,
        name: str | None = None,
        *,
        image: str | AsyncImage,
        command: str | Sequence[str] | None = None,
        **options: Unpack[ContainerOptions],
    ) -> AsyncContainer:
        """Make a container of an image, to be run by its `start`.

        Its standard input stays open, also without a client, until `close_stdin`: an image whose command is a
        shell so keeps running. The image's layers are unpacked where they are not yet.

        Args:
            name: default: one is made up.
            image: its name in any form, or an image.
            command: arguments in place of the image's command; a text is a program's name without arguments.
            **options: see `ContainerOptions`.

        Raises:
            AlreadyExists: the name is taken.
            NotFound: no such image here, or none for the platform.
            InvalidArgument: an option that makes no sense; the sentence says which.
        """
        channel = self._channel
        name = validate_identifier(name or f"{_short(image)}-{secrets.token_hex(4)}")
        snapshotter = options.get("snapshotter") or await default_snapshotter(channel)
        runtime = options.get("runtime") or await default_runtime(channel)
        platform = platforms.parse(options["platform"]) if options.get("platform") else platforms.host()
        record = await get_record(channel, image if isinstance(image, str) else image.name)
        resolved = await resolve(channel, record.target, platform)
        async with lease(channel) as held:
            parent = await unpack(channel, resolved, snapshotter, held)
            prepare = snapshots_pb2.PrepareSnapshotRequest(snapshotter=snapshotter, key=name, parent=parent)
            prepared = await channel.call(_api.SNAPSHOT_PREPARE, prepare, lease=held)
            mounts = [Mount(each.type, each.source, tuple(each.options), each.target) for each in prepared.mounts]
            try:
                build = partial(make_spec, resolved.config, name, channel.namespace, command, options)
                container = containers_pb2.Container(
                    id=name,
                    image=record.name,
                    labels=make_labels(resolved.config, options),
                    runtime=containers_pb2.Container.Runtime(name=runtime),
                    spec=as_any("Spec", with_rootfs(mounts, build)),
                    snapshotter=snapshotter,
                    snapshot_key=name,
                )
                request = containers_pb2.CreateContainerRequest(container=container)
                made = (await channel.call(_api.CONTAINER_CREATE, request, lease=held)).container
            except BaseException:
                await remove_snapshot(channel, snapshotter, name)
                raise
        return AsyncContainer(channel, made, None)

    @overload
    async def run(
        self,
        image: str | AsyncImage,
        command: str | Sequence[str] | None = None,
        *,
        name: str | None = None,
        detach: Literal[False] = False,
        remove: bool = True,
        input: bytes | str | None = None,
        timeout: float | None = None,
        **options: Unpack[ContainerOptions],
    ) -> Output: ...

    @overload
    async def run(
        self,
        image: str | AsyncImage,
        command: str | Sequence[str] | None = None,
        *,
        name: str | None = None,
        detach: Literal[True],
        **options: Unpack[ContainerOptions],
    ) -> AsyncContainer: ...

    async def run(
        self,
        image: str | AsyncImage,
        command: str | Sequence[str] | None = None,
        *,
        name: str | None = None,
        detach: bool = False,
        remove: bool = True,
        input: bytes | str | None = None,
        timeout: float | None = None,
        **options: Unpack[ContainerOptions],
    ) -> Output | AsyncContainer:
        """Run a command in a new container to its end and return its output; with `detach`, return the container.

        Args:
            image: as for `create`.
            command: as for `create`.
            name: as for `create`.
            detach: start it and return; its output goes to its log.
            remove: delete the container at the end.
            input: what the command reads from its standard input; None for none.
            timeout: seconds after which the container is killed, and DeadlineExceeded raised.
            **options: see `ContainerOptions`.
        """
        if not detach:
            options["stdin_open"] = input is not None
        container = await self.create(name, image=image, command=command, **options)
        if detach:
            try:
                await container.start()
            except BaseException:
                await container.delete(force=True)
                raise
            return container
        try:
            async with await container.attach() as process:
                await process.start()
                output = await process.communicate(input or b"", timeout)
        except BaseException:
            await container.delete(force=True)
            raise
        if remove:
            await container.delete(force=True)
        return output


def _short(image: str | AsyncImage) -> str:
    """The last part of the image's name, as the beginning of a container's."""
    name = image if isinstance(image, str) else image.name
    last = name.partition("@")[0].rpartition("/")[2].partition(":")[0]
    return "".join(letter for letter in last if letter.isascii() and letter.isalnum())[:40] or "container"
