"""Blobs of the daemon's content store, read and written."""

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Final

from google.protobuf.field_mask_pb2 import FieldMask
from intermodal_api.containerd.services import content_pb2
from intermodal_core.errors import AlreadyExists, DataLoss, FailedPrecondition, IntermodalError, InvalidArgument

from intermodal import _api
from intermodal._async.channel import AsyncChannel

MAX_DOCUMENT: Final = 8 << 20
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

    Raises DataLoss where the pieces are not `size` bytes of that digest; nothing of them stays then.
    """
    ref = f"import-{digest}"
    requests = _write_requests(ref, digest, size, pieces, labels)
    try:
        async for _ in channel.exchange(_api.CONTENT_WRITE, requests, lease=lease):
            pass
    except AlreadyExists:
        if labels:
            await set_content_labels(channel, digest, labels)
    except BaseException as error:
        await _abort(channel, ref)
        if isinstance(error, FailedPrecondition):
            # What was written could not become the blob that it was meant to be.
            raise DataLoss(f"The content for {digest} is not what its digest and size say: {error}") from error
        raise


async def set_content_labels(channel: AsyncChannel, digest: str, labels: Mapping[str, str]) -> None:
    """Set these labels of a blob and leave its others."""
    mask = FieldMask(paths=[f"labels.{key}" for key in labels])
    info = content_pb2.Info(digest=digest, labels=labels)
    await channel.call(_api.CONTENT_UPDATE, content_pb2.UpdateRequest(info=info, update_mask=mask))


async def _abort(channel: AsyncChannel, ref: str) -> None:
    try:
        await channel.call(_api.CONTENT_ABORT, content_pb2.AbortRequest(ref=ref))
    except IntermodalError:
        pass  # it expires with the lease


async def _write_requests(
    ref: str, digest: str, size: int, pieces: Iterator[bytes], labels: Mapping[str, str]
) -> AsyncIterator[content_pb2.WriteContentRequest]:
    offset = 0
    for data in pieces:
        # Offset 0 drops what an earlier attempt left under this ref.
        yield content_pb2.WriteContentRequest(
            action=content_pb2.WRITE, ref=ref, total=size, expected=digest, offset=offset, data=data
        )
        offset += len(data)
    yield content_pb2.WriteContentRequest(
        action=content_pb2.COMMIT, ref=ref, total=size, expected=digest, offset=offset, labels=labels
    )
