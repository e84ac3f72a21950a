"""The call `Attach`, which a shim and a worker that reads a foreign shim's output answer alike."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty
from intermodal_api import shim_pb2
from intermodal_core.errors import InvalidArgument
from intermodal_ttrpc.dispatch import Call

from intermodal_shim.stdio import Stdio

__all__ = ["attach"]


def attach(stdio: Stdio, request: shim_pb2.AttachRequest, call: Call) -> Empty:
    """Add the descriptors that came with the call to `stdio`. Raises InvalidArgument when they are not those announced."""
    wanted = (request.stdin, request.stdout, request.stderr)
    if len(call.fds) != sum(wanted):
        raise InvalidArgument(f"{sum(wanted)} descriptors are announced and {len(call.fds)} came")
    fds = iter(call.take_fds())
    stdin, stdout, stderr = (next(fds) if want else -1 for want in wanted)
    stdio.attach(stdin, stdout, stderr, request.hold)
    return Empty()
