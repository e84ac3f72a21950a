"""Leases: what is made under one is not garbage until it ends."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Final

from intermodal_api.containerd.services import leases_pb2
from intermodal_core.errors import IntermodalError

from intermodal import _api
from intermodal._async.channel import AsyncChannel

_LIFE: Final = timedelta(hours=24)


@asynccontextmanager
async def lease(channel: AsyncChannel) -> AsyncIterator[str]:
    """A lease for the block; it ends with it, or after a day should the client not come to that."""
    expire = (datetime.now(UTC) + _LIFE).strftime("%Y-%m-%dT%H:%M:%SZ")
    request = leases_pb2.CreateRequest(labels={"containerd.io/gc.expire": expire})
    made = (await channel.call(_api.LEASE_CREATE, request)).lease.id
    try:
        yield made
    finally:
        try:
            await channel.call(_api.LEASE_DELETE, leases_pb2.DeleteRequest(id=made))
        except IntermodalError:
            pass  # it expires; what went wrong in the block matters more
