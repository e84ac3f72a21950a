"""ttrpc's envelope: how a call and its answer are written into frames."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.message import DecodeError, Message
from intermodal_api.google.rpc.status_pb2 import Status
from intermodal_api.ttrpc.request_pb2 import Request, Response
from intermodal_core.errors import IntermodalError, Internal, ResourceExhausted, by_code

from intermodal_ttrpc import framing

__all__ = ["encode_error", "encode_request", "encode_response", "open_response"]


def encode_request(
    stream: int, service: str, method: str, message: Message, timeout: float | None, metadata: Mapping[str, str]
) -> bytes:
    """The frame of a call. Raises ResourceExhausted when it is over ttrpc's limit."""
    request = Request(service=service, method=method, payload=message.SerializeToString())
    if timeout is not None:
        request.timeout_nano = max(1, int(timeout * 1e9))
    for key, value in metadata.items():
        request.metadata.add(key=key, value=value)
    payload = request.SerializeToString()
    if len(payload) > framing.MAX_PAYLOAD:
        raise ResourceExhausted(
            f"calling {service}/{method}: the request takes {len(payload)} bytes, more than ttrpc's {framing.MAX_PAYLOAD}"
        )
    return framing.encode(stream, framing.REQUEST, payload)


def encode_response(stream: int, message: Message) -> bytes:
    """The frame of a good answer; one over ttrpc's limit becomes a ResourceExhausted."""
    payload = Response(payload=message.SerializeToString()).SerializeToString()
    if len(payload) > framing.MAX_PAYLOAD:
        return encode_error(
            stream, ResourceExhausted(f"the answer takes {len(payload)} bytes, more than ttrpc's {framing.MAX_PAYLOAD}")
        )
    return framing.encode(stream, framing.RESPONSE, payload)


def encode_error(stream: int, error: IntermodalError) -> bytes:
    """The frame of an error."""
    status = Status(code=error.code, message=error.message[: 64 << 10])
    return framing.encode(stream, framing.RESPONSE, Response(status=status).SerializeToString())


def open_response(payload: bytes, what: str) -> bytes:
    """The answer's message, serialized. Raises the error that it carries, Internal for what is no answer."""
    try:
        response = Response.FromString(payload)
    except DecodeError as error:
        raise Internal(f"{what}: the answer is no ttrpc response ({error})") from error
    if response.status.code:
        raise by_code(response.status.code, response.status.message)
    return response.payload
