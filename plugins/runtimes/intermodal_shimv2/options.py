"""What a shim is told of its runtime: typed options, and the Any that carries them."""

from __future__ import annotations

from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message
from intermodal_api.containerd.runtime.runc_options_pb2 import Options as Runc
from intermodal_api.containerd.runtime.runtime_options_pb2 import Options as Generic
from intermodal_core.errors import InvalidArgument

__all__ = ["carried", "operators"]

_TYPES: dict[str, type[Message]] = {kind.DESCRIPTOR.full_name: kind for kind in (Runc, Generic)}


def operators(type_url: str, fields: dict[str, Any]) -> AnyMessage:
    """The operator's options. Raises InvalidArgument for a field that the message has not, or of another type."""
    if not type_url:
        if fields:
            raise InvalidArgument(
                f"options are given ({', '.join(fields)}) and no options_type that says how to send them"
            )
        return AnyMessage()
    given = dict(fields)
    body = given.get("config_body")
    if isinstance(body, str):
        given["config_body"] = None
    try:
        message = ParseDict(given, _TYPES[type_url]())
    except ParseError as error:
        raise InvalidArgument(f"the options are no {type_url}: {error}") from error
    if isinstance(message, Generic) and isinstance(body, str):
        message.config_body = body.encode()
    return AnyMessage(type_url=type_url, value=message.SerializeToString())


def carried(type_url: str, value: bytes, default: AnyMessage) -> AnyMessage:
    """What a client asked for, whatever its type: the shim knows it; else the operator's."""
    return AnyMessage(type_url=type_url, value=value) if type_url else default
