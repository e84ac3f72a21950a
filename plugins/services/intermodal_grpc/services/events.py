"""containerd.services.events.v1.Events."""

from __future__ import annotations

from collections.abc import AsyncIterator

from google.protobuf.any_pb2 import Any
from google.protobuf.empty_pb2 import Empty
from intermodal_api.containerd.services import events_pb2 as pb
from intermodal_api.containerd.types import event_pb2
from intermodal_core.contracts.managers.tasks import Tasks
from intermodal_core.errors import FailedPrecondition, InvalidArgument
from intermodal_core.events import Event, EventBus
from intermodal_wire.calls import Call, Service
from intermodal_wire.values import timestamp

__all__ = ["Events"]


class Events(Service):
    """Translates to the core's event bus; what shims forward goes to the tasks manager."""

    descriptor = pb.DESCRIPTOR.services_by_name["Events"]

    def __init__(self, bus: EventBus, tasks: Tasks) -> None:
        self._bus = bus
        self._tasks = tasks

    async def publish(self, request: pb.PublishRequest, call: Call) -> Empty:
        """Publish."""
        namespace = call.scope.namespace
        if not namespace:
            raise FailedPrecondition("no namespace was given: an event belongs to one")
        self._bus.publish(namespace, _topic(request.topic), request.event.type_url, request.event.value)
        return Empty()

    async def forward(self, request: pb.ForwardRequest, call: Call) -> Empty:
        """Forward."""
        envelope = request.envelope
        await self._tasks.forward(
            envelope.namespace, _topic(envelope.topic), envelope.event.type_url, envelope.event.value
        )
        return Empty()

    async def subscribe(self, request: pb.SubscribeRequest, call: Call) -> AsyncIterator[event_pb2.Envelope]:
        """Subscribe; the metadata `since` replays what came after that sequence number."""
        since = call.metadata("since")
        if since and not since.isdigit():
            raise InvalidArgument(f"the metadata since is a sequence number, not {since!r}")
        async with self._bus.subscribe(list(request.filters), since=int(since) if since else None) as subscription:
            call.send_initial_metadata()  # the client knows that nothing is missed from here on
            async for event in subscription:
                yield _envelope(event)


def _topic(topic: str) -> str:
    if not topic.startswith("/") or len(topic) == 1 or topic.endswith("/"):
        raise InvalidArgument(f"a topic is /NAME[/NAME]..., not {topic!r}")
    return topic


def _envelope(event: Event) -> event_pb2.Envelope:
    return event_pb2.Envelope(
        timestamp=timestamp(event.timestamp),
        namespace=event.namespace,
        topic=event.topic,
        event=Any(type_url=event.type_url, value=event.data),
        sequence=event.sequence,
    )
