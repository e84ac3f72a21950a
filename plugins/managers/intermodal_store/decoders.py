"""What lets filters and commands see the fields of containerd's events."""

from __future__ import annotations

from functools import partial
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from intermodal_api import images_pb2
from intermodal_api.containerd.events import (
    container_pb2,
    content_pb2,
    image_pb2,
    namespace_pb2,
    sandbox_pb2,
    snapshot_pb2,
    task_pb2,
)
from intermodal_core.events import EventBus

__all__ = ["register"]

_MODULES: tuple[Any, ...] = (
    images_pb2,
    container_pb2,
    content_pb2,
    image_pb2,
    namespace_pb2,
    sandbox_pb2,
    snapshot_pb2,
    task_pb2,
)


def register(bus: EventBus) -> None:
    """Make every event of `intermodal_api.containerd.events`, and our own, known to the bus; fields go by their wire names."""
    for module in _MODULES:
        for descriptor in module.DESCRIPTOR.message_types_by_name.values():
            bus.register_decoder(descriptor.full_name, partial(_fields, GetMessageClass(descriptor)))


def _fields(message: type[Message], data: bytes) -> dict[str, Any]:
    return MessageToDict(message.FromString(data), preserving_proto_field_name=True)
