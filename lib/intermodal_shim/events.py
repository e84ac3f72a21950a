"""Tells the daemon what happened: `Events/Forward` over ttrpc, each until it is answered."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable

from google.protobuf.message import Message
from intermodal_api.containerd.services.ttrpc_events_pb2 import ForwardRequest
from intermodal_core.errors import IntermodalError, InvalidArgument, Unimplemented
from intermodal_ttrpc import messages
from intermodal_ttrpc.channel import Channel, connect
from intermodal_ttrpc.framing import Frame

from intermodal_shim.loop import Loop, Timer

__all__ = ["Publisher"]

_SERVICE = "containerd.services.events.ttrpc.v1.Events"
_FIRST_DELAY = 0.05
_LAST_DELAY = 2.0
_ANSWER_WITHIN = 10.0


class Publisher:
    """Sends events in order, one at a time, to the ttrpc socket `address`; "" drops them.

    The daemon answers an event once it is committed, so what is not answered is sent again: over a new connection, after a
    delay that grows to 2 s, for ever. A refusal of the event itself is final. `on_idle` is called when none is left.
    """

    def __init__(
        self,
        loop: Loop,
        address: str,
        namespace: str,
        log: Callable[[str], object],
        on_idle: Callable[[], object],
    ) -> None:
        self._loop = loop
        self._address = address.removeprefix("unix://")
        self._namespace = namespace
        self._log = log
        self._on_idle = on_idle
        self._queue: deque[ForwardRequest] = deque()
        self._channel: Channel | None = None
        self._stream = -1
        self._delay = 0.0
        self._timer: Timer | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be told."""
        return not self._queue

    def publish(self, topic: str, event: Message) -> None:
        """Queue an event that happens now."""
        if not self._address:
            return
        request = ForwardRequest()
        request.envelope.timestamp.FromNanoseconds(time.time_ns())
        request.envelope.namespace = self._namespace
        request.envelope.topic = topic
        request.envelope.event.type_url = event.DESCRIPTOR.full_name
        request.envelope.event.value = event.SerializeToString()
        self._queue.append(request)
        if len(self._queue) == 1 and self._timer is None:
            self._send()

    def _send(self) -> None:
        self._timer = None
        if not self._queue:
            return
        if self._channel is None:
            try:
                self._channel = Channel(connect(self._address), self._loop, self._answered, self._closed)
            except OSError:
                self._retry()
                return
        self._stream += 2
        metadata = {"containerd-namespace-ttrpc": self._namespace}
        self._channel.send(
            messages.encode_request(self._stream, _SERVICE, "Forward", self._queue[0], _ANSWER_WITHIN, metadata)
        )
        if self._channel is not None:
            self._timer = self._loop.call_later(_ANSWER_WITHIN, self._late)

    def _answered(self, channel: Channel, frame: Frame) -> None:
        for fd in frame.fds:
            os.close(fd)
        if frame.stream != self._stream:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        topic = self._queue[0].envelope.topic
        try:
            messages.open_response(frame.payload, f"forwarding {topic}")
        except (InvalidArgument, Unimplemented) as error:
            self._log(f"event {topic} is given up, the daemon refused it: {error}")
        except IntermodalError as error:
            self._log(f"event {topic} is sent again later: {error}")
            self._retry()
            return
        self._delay = 0.0
        self._queue.popleft()
        if self._queue:
            self._send()
        else:
            channel.close()
            self._on_idle()

    def _closed(self, channel: Channel) -> None:
        self._channel = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._queue:
            self._retry()

    def _late(self) -> None:
        self._timer = None
        if self._channel is not None:
            self._channel.close()

    def _retry(self) -> None:
        self._delay = min(max(_FIRST_DELAY, 2 * self._delay), _LAST_DELAY)
        self._timer = self._loop.call_later(self._delay, self._send)
