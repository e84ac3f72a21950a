"""containerd.services.transfer.v1.Transfer: what newer clients pull, push, import, export and tag by."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from intermodal_api.containerd.services import transfer_pb2 as pb
from intermodal_api.containerd.types import transfer_pb2 as types
from intermodal_core.background import finished
from intermodal_core.contracts.common import Platform
from intermodal_core.contracts.image_sources import Access
from intermodal_core.contracts.managers.images import Images, Progress, PullRequest, PushRequest, Report
from intermodal_core.contracts.managers.store import Scope
from intermodal_core.errors import InvalidArgument, Unimplemented
from intermodal_oci.platforms import format_platform
from intermodal_wire.calls import Call, Service

from intermodal_grpc.services.streaming import Stream, Streams, unpacked

__all__ = ["Transfer"]

_PIECE: Final = 1 << 18
_ENDS: Final[tuple[type[Message], ...]] = (
    types.OCIRegistry,
    types.ImageStore,
    types.ImageImportStream,
    types.ImageExportStream,
)
#: What our actions are called by containerd's clients.
_EVENTS: Final = {"download": "downloading", "unpack": "extracting", "push": "uploading", "resolve": "resolving"}


class Transfer(Service):
    """Translates to the images manager."""

    descriptor = pb.DESCRIPTOR.services_by_name["Transfer"]

    def __init__(self, images: Images, streams: Streams) -> None:
        self._images = images
        self._streams = streams

    async def transfer(self, request: pb.TransferRequest, call: Call) -> Empty:
        """Transfer: from one end to the other."""
        source, destination = _end(request.source), _end(request.destination)
        scope = call.scope
        async with self._progress(scope, request.options.progress_stream) as report:
            match source, destination:
                case types.OCIRegistry(), types.ImageStore():
                    await self._pull(scope, source, destination, report)
                case types.ImageStore(), types.OCIRegistry():
                    access = await self._access(scope, destination)
                    platform = _one(source.platforms)
                    wanted = PushRequest(
                        image=source.name, name=destination.reference, platform=platform, access=access
                    )
                    await self._images.push(scope, wanted, report=report)
                case types.ImageImportStream(), types.ImageStore():
                    await self._import(scope, source, destination, report)
                case types.ImageStore(), types.ImageExportStream():
                    await self._export(scope, source, destination, report)
                case types.ImageStore(), types.ImageStore():
                    await self._images.tag(scope, source.name, destination.name)
                case _:
                    names = f"{source.DESCRIPTOR.full_name} to {destination.DESCRIPTOR.full_name}"
                    raise Unimplemented(f"nothing can be transferred from {names}")
        return Empty()

    async def _pull(self, scope: Scope, source: types.OCIRegistry, store: types.ImageStore, report: Report) -> None:
        unpacks = list(store.unpacks)
        access = await self._access(scope, source)
        platforms = [_platform(each) for each in store.platforms]
        for platform in platforms or [""]:
            request = PullRequest(
                name=source.reference,
                platform=platform,
                all_platforms=not platforms,
                unpack=unpacks[0].snapshotter if unpacks else None,
                labels=dict(store.labels),
                access=access,
            )
            pulled = await self._images.pull(scope, request, report=report)
        for unpack in unpacks[1:]:
            await self._images.unpack(scope, pulled.image.name, unpack.snapshotter, report=report)
        if store.name and store.name != pulled.image.name:
            await self._images.tag(scope, pulled.image.name, store.name)

    async def _import(
        self, scope: Scope, source: types.ImageImportStream, store: types.ImageStore, report: Report
    ) -> None:
        names = [store.name] if store.name else []
        names += [each.name for each in store.extra_references if each.name and not each.is_prefix]
        stream = self._streams.get(scope.named, source.stream)
        reader, writer = os.pipe2(os.O_CLOEXEC)

        async def feed() -> None:
            try:
                async for data in stream.content():
                    await _all_written(writer, data)
            except BrokenPipeError:
                pass  # the importer says why it reads no more
            finally:
                os.close(writer)

        feeding = asyncio.create_task(feed())
        try:
            await self._images.import_archive(
                scope,
                reader,
                names=names,
                platform=_one(store.platforms),
                all_platforms=len(store.platforms) != 1,
                unpack=store.unpacks[0].snapshotter if store.unpacks else None,
                report=report,
            )
        finally:
            os.close(reader)
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)

    async def _export(
        self, scope: Scope, store: types.ImageStore, target: types.ImageExportStream, report: Report
    ) -> None:
        names = [store.name] if store.name else []
        names += [each.name for each in store.extra_references if each.name and not each.is_prefix]
        stream = self._streams.get(scope.named, target.stream)
        reader, writer = os.pipe2(os.O_CLOEXEC)

        async def pass_on() -> None:
            try:
                window = 0
                while data := await finished(asyncio.to_thread(os.read, reader, _PIECE)):
                    window = await stream.write(data, window)
            finally:
                os.close(reader)

        async def export() -> None:
            try:
                await self._images.export(scope, names, writer, platform=_one(target.platforms), report=report)
            finally:
                os.close(writer)

        passing = asyncio.create_task(pass_on())
        try:
            await export()
            await passing
        except BaseException:
            passing.cancel()
            await asyncio.gather(passing, return_exceptions=True)
            raise
        await stream.close()

    async def _access(self, scope: Scope, registry: types.OCIRegistry) -> Access:
        """How the client wants it reached; it is asked for credentials once, where it offers a stream to do so."""
        resolver = registry.resolver
        if resolver.headers or resolver.host_dir:
            raise Unimplemented(
                "headers and a hosts directory of the client's own are not taken: write them to certs.d on the daemon's side"
            )
        access = Access(plain_http=resolver.default_scheme == "http")
        if not resolver.auth_stream:
            return access
        stream = self._streams.get(scope.named, resolver.auth_stream)
        host = registry.reference.partition("/")[0]
        await stream.send(types.AuthRequest(host=host, reference=registry.reference))
        answer = await stream.receive()
        found = unpacked(answer, types.AuthResponse) if answer is not None else None
        if found is None or found.authType == types.NONE:
            return access
        if found.authType == types.CREDENTIALS:
            return Access(plain_http=access.plain_http, username=found.username, password=found.secret)
        if found.authType == types.REFRESH:
            return Access(plain_http=access.plain_http, refresh_token=found.secret)
        raise Unimplemented("a whole Authorization header is not taken: give user and password, or a refresh token")

    @asynccontextmanager
    async def _progress(self, scope: Scope, stream_id: str) -> AsyncIterator[Report]:
        """A function to report with; the client gets of each thing the latest state."""
        if not stream_id:
            yield lambda progress: None
            return
        stream = self._streams.get(scope.named, stream_id)
        waiting: dict[tuple[str, str], Progress] = {}
        wake = asyncio.Event()

        def report(progress: Progress) -> None:
            waiting[progress.action, progress.name] = progress
            wake.set()

        async def tell() -> None:
            while True:
                await wake.wait()
                wake.clear()
                await _flush(stream, waiting)

        telling = asyncio.create_task(tell())
        try:
            yield report
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
        with contextlib.suppress(Exception):  # the transfer is done, whoever looks
            await _flush(stream, waiting)


async def _flush(stream: Stream, waiting: dict[tuple[str, str], Progress]) -> None:
    while waiting:
        told = waiting.pop(next(iter(waiting)))
        event = _EVENTS.get(told.action, told.action)
        if told.total and told.done >= told.total:
            event = "complete"
        await stream.send(types.Progress(event=event, name=told.name, progress=told.done, total=told.total))


def _end(message: object) -> Message:
    for kind in _ENDS:
        found = unpacked(message, kind)  # type: ignore[arg-type]
        if found is not None:
            return found
    raise Unimplemented(f"{getattr(message, 'type_url', '') or 'nothing'} is no end of a transfer that is known here")


def _platform(message: object) -> str:
    platform = Platform(
        str(getattr(message, "os", "")), str(getattr(message, "architecture", "")), str(getattr(message, "variant", ""))
    )
    return format_platform(platform)


def _one(platforms: object) -> str:
    """The platform, where there is one; several are more than one archive or push can be of."""
    each = list(platforms)  # type: ignore[call-overload]
    if len(each) > 1:
        raise InvalidArgument("several platforms were named, and this takes one, or all that are here")
    return _platform(each[0]) if each else ""


async def _all_written(fd: int, data: bytes) -> None:
    def write() -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]

    await finished(asyncio.to_thread(write))
