"""A blob out of a daemon's content store."""

from __future__ import annotations

import os
from collections.abc import Mapping

from intermodal_api.containerd.services import content_pb2 as pb

from intermodal_wire.client import Client

__all__ = ["CONTENT", "blob_to"]

CONTENT = pb.DESCRIPTOR.services_by_name["Content"]


def blob_to(fd: int, address: str, digest: str, headers: Mapping[str, str]) -> None:
    """Write the blob to descriptor `fd`, which is closed. A reader that goes ends it. Raises the store's error."""
    client = Client(address, headers)
    try:
        with open(fd, "wb", buffering=0) as file:
            for answer in client.each(CONTENT, "Read", pb.ReadContentRequest(digest=digest)):
                view = memoryview(answer.data)
                while view:
                    view = view[os.write(file.fileno(), view) :]
    except BrokenPipeError:
        pass
    finally:
        client.close()
