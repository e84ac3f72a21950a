"""Events as JSON: the message that an event's type names, decoded when somebody looks at it."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

__all__ = ["decoded"]


def decoded(type_url: str, data: bytes) -> dict[str, Any] | None:
    """The fields of a message by their wire names; None for a type that is not known here or bytes that are not one."""
    message_class = _message_class(type_url.rpartition("/")[2])
    if message_class is None:
        return None
    try:
        message = message_class.FromString(data)
    except DecodeError:
        return None
    return MessageToDict(message, preserving_proto_field_name=True)


@cache
def _message_class(name: str) -> Any:
    _load()
    try:
        return GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(name))
    except KeyError:
        return None


@cache
def _load() -> None:
    """Make the messages of containerd's events known to the pool."""
    package = importlib.import_module("intermodal_api.containerd.events")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
