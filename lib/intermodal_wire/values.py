"""The daemon's values as messages of the wire, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from google.protobuf.any_pb2 import Any
from google.protobuf.timestamp_pb2 import Timestamp
from intermodal_api.containerd.types import descriptor_pb2, mount_pb2
from intermodal_core.contracts.common import Descriptor, Mount
from intermodal_core.contracts.managers.store import AnyValue
from intermodal_core.errors import InvalidArgument

__all__ = [
    "any_from",
    "any_to",
    "descriptor_from",
    "descriptor_to",
    "masked",
    "mounts_from",
    "mounts_to",
    "nanoseconds",
    "set_any",
    "timestamp",
]

_SECOND = 1_000_000_000


def timestamp(nanoseconds: int) -> Timestamp | None:
    """The time of ns since the epoch; 0 is no time."""
    if not nanoseconds:
        return None
    return Timestamp(seconds=nanoseconds // _SECOND, nanos=nanoseconds % _SECOND)


def nanoseconds(time: Timestamp) -> int:
    """The other way; a time before the epoch (Go's zero time is the year 1) is no time."""
    return max(0, time.seconds * _SECOND + time.nanos)


def any_to(value: AnyValue | None) -> Any | None:
    """As a message; the type URL is passed on as it came."""
    return None if value is None else set_any(value)


def set_any(value: AnyValue) -> Any:
    """One that is there."""
    return Any(type_url=value.type_url, value=value.value)


def any_from(message: Any) -> AnyValue | None:
    """None for a message that was not set."""
    return AnyValue(message.type_url, message.value) if message.type_url or message.value else None


def mounts_to(mounts: Iterable[Mount]) -> list[mount_pb2.Mount]:
    """Mounts as messages."""
    return [mount_pb2.Mount(type=m.type, source=m.source, target=m.target, options=m.options) for m in mounts]


def mounts_from(messages: Iterable[mount_pb2.Mount]) -> tuple[Mount, ...]:
    """The other way."""
    return tuple(Mount(m.type, m.source, tuple(m.options), m.target) for m in messages)


def descriptor_to(value: Descriptor) -> descriptor_pb2.Descriptor:
    """A descriptor as the wire has it: without platform and URLs."""
    return descriptor_pb2.Descriptor(
        media_type=value.media_type, digest=value.digest, size=value.size, annotations=value.annotations
    )


def descriptor_from(message: descriptor_pb2.Descriptor) -> Descriptor:
    """The other way."""
    return Descriptor(message.media_type, message.digest, message.size, dict(message.annotations))


def masked(current: Mapping[str, str], new: Mapping[str, str], fields: Iterable[str]) -> dict[str, str]:
    """Labels after an update: `fields` are `labels`, or `labels.KEY`s, of which those absent in `new` go; none: all of `new`.

    Raises InvalidArgument for another field.
    """
    labels = dict(current)
    for field in fields or ("labels",):
        head, _, key = field.partition(".")
        if head != "labels":
            raise InvalidArgument(f"the field {field!r} cannot be updated; labels and labels.KEY can")
        if not key:
            labels = dict(new)
        elif new.get(key):
            labels[key] = new[key]
        else:
            labels.pop(key, None)
    return labels
