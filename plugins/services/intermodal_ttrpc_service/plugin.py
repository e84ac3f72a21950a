"""The adapter: `services.ttrpc`, the socket that shims forward their events to, beside the daemon's main one."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty
from intermodal_api.containerd.services import ttrpc_events_pb2
from intermodal_core.contracts.managers.tasks import Tasks
from intermodal_core.plugin import Context, NoConfig, Plugin
from intermodal_ttrpc.server import Call, Server, bind

__all__ = ["TtrpcService", "plugin"]


class TtrpcService:
    """Serves containerd.services.events.ttrpc.v1.Events on ADDRESS.ttrpc."""

    def __init__(self, context: Context[NoConfig]) -> None:
        self._tasks: Tasks = context.get("managers", "tasks")
        self._address = f"{context.address}.ttrpc"
        self._server: Server | None = None

    async def __aenter__(self) -> TtrpcService:
        service = ttrpc_events_pb2.DESCRIPTOR.services_by_name["Events"].full_name
        handlers = {"Forward": (ttrpc_events_pb2.ForwardRequest, self._forward)}
        self._server = Server(bind(self._address), {service: handlers})
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            await self._server.stop()

    async def _forward(self, request: ttrpc_events_pb2.ForwardRequest, call: Call) -> Empty:
        """Answer once the event is committed: until then the shim keeps it."""
        envelope = request.envelope
        event = envelope.event
        await self._tasks.forward(envelope.namespace, envelope.topic, event.type_url, event.value)
        return Empty()


plugin = Plugin(factory=TtrpcService, requires=("managers.tasks",))
