"""From wire messages to the values of `_models`."""

from datetime import UTC, datetime
from typing import Final

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp
from intermodal_api.cgroups import v1_pb2, v2_pb2
from intermodal_api.containerd.types.event_pb2 import Envelope
from intermodal_api.containerd.types.metrics_pb2 import Metric
from intermodal_core.errors import Unimplemented

from intermodal import events
from intermodal._models import Event, Stats

_EVENTS: Final[dict[str, type[Message]]] = {
    kind.DESCRIPTOR.full_name: kind for kind in (getattr(events, name) for name in events.__all__)
}


def moment(timestamp: Timestamp) -> datetime:
    """A wire timestamp as a datetime in UTC."""
    return timestamp.ToDatetime(UTC)


def bare_type(any_message: Any) -> str:
    """The message's name, without the host that some senders put before it."""
    return any_message.type_url.rpartition("/")[2]


def event(envelope: Envelope, *, gap: bool) -> Event:
    """An event with its message decoded; one of an unknown or broken kind keeps `message` None."""
    name = bare_type(envelope.event)
    kind = _EVENTS.get(name)
    message: Message | None = None
    if kind is not None:
        try:
            message = kind.FromString(envelope.event.value)
        except DecodeError:
            message = None
    return Event(moment(envelope.timestamp), envelope.namespace, envelope.topic, name, message, envelope.sequence, gap)


def stats(metric: Metric) -> Stats:
    """A task's metrics of either cgroup version. Raises Unimplemented for any other kind."""
    name, read_at = bare_type(metric.data), moment(metric.timestamp)
    if name == v1_pb2.Metrics.DESCRIPTOR.full_name:
        one = v1_pb2.Metrics.FromString(metric.data.value)
        memory = one.memory.usage
        return Stats(read_at, one.cpu.usage.total, memory.usage, memory.limit, one.pids.current)
    if name == v2_pb2.Metrics.DESCRIPTOR.full_name:
        two = v2_pb2.Metrics.FromString(metric.data.value)
        return Stats(read_at, two.cpu.usage_usec * 1000, two.memory.usage, two.memory.usage_limit, two.pids.current)
    raise Unimplemented(f"The runtime reports its metrics as {name!r}, which this client cannot read")
