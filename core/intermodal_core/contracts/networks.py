"""Networks: what a container's network namespace is and is connected to."""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

import msgspec

__all__ = ["VERSION", "AttachResult", "Attachment", "Network"]

VERSION = 1


class Attachment(msgspec.Struct, frozen=True):
    """One container's place in one network; `netns` is "" where none is made.

    `id` names it for detach and gc; it may hold a slash, so it is no file name.
    """

    id: str
    namespace: str
    container: str
    network: str
    netns: str = ""
    interface: str = "eth0"
    options: dict[str, str] = {}


class AttachResult(msgspec.Struct, frozen=True):
    """What came of it.

    `mode` says what the container's spec gets: the host's namespace, a new empty one, or the one at `netns`.
    `result` is the backend's own record, as JSON, handed back to `detach` and `check`.
    """

    mode: Literal["host", "new", "path"]
    netns: str = ""
    addresses: tuple[str, ...] = ()
    result: bytes = b"{}"


@runtime_checkable
class Network(Protocol):
    """A network backend.

    Capability `netns`: the caller makes a namespace first and passes its path.
    """

    def attach(self, attachment: Attachment) -> AttachResult:
        """[N1] Connect. On an error nothing of it remains."""

    def detach(self, attachment: Attachment, result: bytes) -> None:
        """[N2] Undo `attach`; idempotent, also when the namespace is gone or attach never finished."""

    def check(self, attachment: Attachment, result: bytes) -> None:
        """[N3] Raise FailedPrecondition when what `attach` made is no longer there."""

    def gc(self, live: tuple[Attachment, ...]) -> None:
        """[N4] Free what belongs to no attachment in `live`."""
