"""Blobs of the daemon's content store, read and written."""

from collections.abc import AsyncIterator, Iterator, Mapping

from google.protobuf.field_mask_pb2 import FieldMask
from intermodal_api.containerd.services import content_pb2
from intermodal_core.errors import AlreadyExists, DataLoss, InvalidArgument

from intermodal import _api
from intermodal._async.channel import AsyncChannel

MAX_DOCUMENT = 8 << 20
"""Bytes of a manifest or a config: more is not one."""


async def read_document(channel: AsyncChannel, digest: str) -> bytes:
    """A small blob whole. Raises NotFound, or InvalidArgument where it is larger than a document may be."""
    request = content_pb2.ReadContentRequest(digest=digest)
    data = b""
    async for piece in channel.stream(_api.CONTENT_READ, request, timeout=channel.timeout):
        data += piece.data
        if len(data) > MAX_DOCUMENT:
            raise InvalidArgument(f"{digest} has more than {MAX_DOCUMENT} bytes: that is no manifest and no config")
    return data


async def write_blob(
    channel: AsyncChannel, digest: str, size: int, pieces: Iterator[bytes], labels: Mapping[str, str], lease: str
) -> None:
    """Write a blob under `lease`, with `labels`; one that is there gets the labels alone.

    Raises DataLoss where the pieces are not `size` bytes of that digest, and what reading them raises.
    """
    requests = _write_requests(digest, size, pieces, labels)
    try:
        async for response in channel.exchange(_api.CONTENT_WRITE, requests, lease=lease):
            if response.action == content_pb2.COMMIT and response.digest not in ("", digest):
                raise DataLoss(f"The daemon stored {response.digest} for {digest}")
    except AlreadyExists:
        if labels:
            await set_content_labels(channel, digest, labels)


async def set_content_labels(channel: AsyncChannel, digest: str, labels: Mapping[str, str]) -> None:
    """Set these labels of a blob and leave its others."""
    mask = FieldMask(paths=[f"labels.{key}" for key in labels])
    info = content_pb2.Info(digest=digest, labels=labels)
    await channel.call(_api.CONTENT_UPDATE, content_pb2.UpdateRequest(info=info, update_mask=mask))


async def _write_requests(
    digest: str, size: int, pieces: Iterator[bytes], labels: Mapping[str, str]
) -> AsyncIterator[content_pb2.WriteContentRequest]:
    ref, offset = f"import-{digest}", 0
    for data in pieces:
        # Offset 0 drops what an earlier attempt left under this ref.
        yield content_pb2.WriteContentRequest(
            action=content_pb2.WRITE, ref=ref, total=size, expected=digest, offset=offset, data=data
        )
        offset += len(data)
    yield content_pb2.WriteContentRequest(
        action=content_pb2.COMMIT, ref=ref, total=size, expected=digest, offset=offset, labels=labels
    )
