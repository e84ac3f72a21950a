"""Event sinks: places that the daemon's events are delivered to.

A sink that has a section in the config, `[event_sinks.NAME]`, is followed by the manager `sinks`: it delivers what the sink's
filters match, from where it left off, across restarts of the daemon and of the sink.

Life cycle: `filters` is read -> `deliver`, again and again, and `lost` where something was -> `close`.

Vocabulary: a *batch* is one or more events in their order. The *position* of a sink is the sequence number of the last event that
it need not be given again; it is kept in the metadata.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import msgspec

__all__ = ["VERSION", "EventSink", "SunkEvent"]

VERSION = 1


class SunkEvent(msgspec.Struct, frozen=True):
    """One event. `sequence` grows without gaps that mean anything; `id` is unique; `timestamp` is in ns since 1970, UTC.

    `type` is the type URL of `data`, protobuf; `fields` is the same decoded, empty where nobody registered a decoder.
    """

    sequence: int
    id: str
    timestamp: int
    namespace: str
    topic: str
    type: str
    fields: dict[str, Any] = {}
    data: bytes = b""

    def json(self) -> bytes:
        """One JSON object without `data` and a newline: what `imod events -o json` prints of it, and its id."""
        return msgspec.json.encode({name: getattr(self, name) for name in self.__struct_fields__ if name != "data"})


@runtime_checkable
class EventSink(Protocol):
    """A sink. Its methods are called one at a time, on a thread of its own.

    [E6] `filters`, read once, are in containerd's grammar (`topic~=/tasks/`, `namespace==default`), each well formed; an event goes
    to the sink when any matches, or there are none.
    """

    filters: tuple[str, ...]

    def deliver(self, events: tuple[SunkEvent, ...]) -> None:
        """[E1] Returns when every event of the batch is where it is to be, and would survive the daemon's end.

        [E2] Raises any error when that is not so: the same events are given again, after a pause that grows up to half a minute,
        perhaps in other batches. So an event may come twice, with the same `id`; a sink that cannot have that looks at `id`.
        [E3] What is delivered is in the order of `sequence`, but for events that come again.
        """

    def lost(self, first: int, last: int) -> None:
        """[E4] The events with numbers from `first` to `last` were not kept long enough to be delivered: tell it on.

        Whether a filter would have matched one of them is not known. Errors are treated as `deliver`'s.
        """

    def close(self) -> None:
        """[E5] Called once, at the daemon's end; nothing is delivered afterwards."""
