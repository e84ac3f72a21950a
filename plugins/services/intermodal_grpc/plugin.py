"""The adapter: `services.grpc`, the daemon's main socket."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Annotated, Any

import msgspec
from intermodal_core.errors import FailedPrecondition, NotFound
from intermodal_core.plugin import Context, Plugin
from intermodal_http2.server import Server
from intermodal_wire.calls import Call, Service
from intermodal_wire.content import Content
from intermodal_wire.diff import Diff
from intermodal_wire.health import Health
from intermodal_wire.snapshots import Snapshots

from intermodal_grpc.server import unserved
from intermodal_grpc.services.containers import Containers
from intermodal_grpc.services.events import Events
from intermodal_grpc.services.images import Images
from intermodal_grpc.services.introspection import Introspection
from intermodal_grpc.services.leases import Leases
from intermodal_grpc.services.namespaces import Namespaces
from intermodal_grpc.services.streaming import Streaming, Streams
from intermodal_grpc.services.tasks import TasksService
from intermodal_grpc.services.transfer import Transfer
from intermodal_grpc.services.version import Version

__all__ = ["Config", "GrpcService", "plugin"]


#: What each service is a translation of.
_TRANSLATIONS: tuple[tuple[Any, str], ...] = (
    (Namespaces, "store"),
    (Content, "store"),
    (Images, "store"),
    (Snapshots, "store"),
    (Containers, "store"),
    (Leases, "store"),
    (Diff, "images"),
    (Transfer, "images"),
    (TasksService, "tasks"),
    (Events, "tasks"),
)


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of `[services.grpc]`."""

    grace: Annotated[
        float, msgspec.Meta(ge=0, description="Seconds that calls under way have when the daemon stops.")
    ] = 2.0


class GrpcService:
    """The server's life within the daemon's."""

    def __init__(self, context: Context[Config]) -> None:
        self._context = context
        self._server: Server | None = None

    async def __aenter__(self) -> GrpcService:
        """Serve on the daemon's main address."""
        context = self._context
        streams = Streams()
        services: list[Service] = [
            Introspection(context.registry, _uuid(context.root_dir() / "uuid")),
            Version(),
            Streaming(streams),
        ]
        off: dict[str, str] = {}
        for service, manager in _TRANSLATIONS:
            try:
                translated = context.get("managers", manager)
            except (FailedPrecondition, NotFound) as error:  # the others serve, and show what is wrong with it
                off[service.descriptor.full_name] = str(error)
            else:
                services.append(_translation(service, translated, context, streams))
        names = {"", *(service.descriptor.full_name for service in services)}

        def trouble(service: str) -> str | None:
            """Of a service, or of a plugin by KIND.NAME."""
            record = context.registry.get(*service.split(".", 1)) if service.count(".") == 1 else None
            if service in names or (record is not None and record.state == "available"):
                return ""
            return None if record is None else record.trouble

        services.append(Health(trouble, context.registry.change))
        served = {service.descriptor.full_name for service in services}
        self._server = Server(services, context.registry.idle.busy, Call, unserved(context.registry, served, off))
        core = context.registry.config.core
        await self._server.listen(context.address, int(core.socket_mode, 8), core.socket_owner, core.socket_group)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let go of the socket."""
        if self._server is not None:
            await self._server.close(self._context.config.grace)


def _translation(service: Any, manager: Any, context: Context[Any], streams: Streams) -> Service:
    if service is Events:
        return Events(context.events, manager)
    if service is Transfer:
        return Transfer(manager, streams)
    translation: Service = service(manager)
    return translation


def _uuid(path: Path) -> str:
    """This root's own, made once."""
    if not path.exists():
        path.write_text(str(uuid.uuid4()))
    return path.read_text()


# The kind, not its members by name: a manager that is broken takes its own services with it and no others.
plugin = Plugin(factory=GrpcService, config=Config, requires=("managers",))
