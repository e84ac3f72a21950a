"""The daemon's events: `client.events()`."""

from collections.abc import AsyncIterator, Sequence
from typing import Final

from intermodal_api.containerd.services import events_pb2
from intermodal_core.errors import Unavailable

from intermodal import _api
from intermodal._async.channel import AsyncChannel
from intermodal._decoding import event
from intermodal._models import Event
from intermodal._waiting import sleep_async

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 5.0


async def follow(
    channel: AsyncChannel, filters: Sequence[str], since: int, all_namespaces: bool, attempts: int
) -> AsyncIterator[Event]:
    """Events as they come; a stream that breaks is taken up where it stopped.

    Raises Unavailable after `attempts` connections in a row that gave nothing.
    """
    if not all_namespaces:
        ours = f'namespace=="{channel.namespace}"'
        filters = [f"{ours},{each}" for each in filters] or [ours]
    request = events_pb2.SubscribeRequest(filters=filters)
    failures, pause, gap = 0, _FIRST_PAUSE, False
    while True:
        try:
            async for envelope in channel.stream(_api.SUBSCRIBE, request, since=since):
                failures, pause = 0, _FIRST_PAUSE
                since = envelope.sequence or since
                yield event(envelope, gap=gap)
                gap = False
        except Unavailable:
            failures += 1
            if failures >= attempts:
                raise
        # A daemon that numbers its events replays what came meanwhile; of another's some may be lost.
        gap = since == 0
        await sleep_async(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)
