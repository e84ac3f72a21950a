"""The shim, as a container sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from google.protobuf.message import Message

from intermodal_shim.loop import Loop

if TYPE_CHECKING:
    from intermodal_shim.container import Container

__all__ = ["Host"]


class Host(Protocol):
    """The shim, as a container sees it."""

    loop: Loop
    namespace: str

    def log(self, message: str) -> None:
        """A line for the shim's own log."""

    def publish(self, topic: str, event: Message, always: bool = False) -> None:
        """Tell the daemon; without `always` only where it wants all events.

        Our own daemon waits for every process, and asks for what ended while it was away: it is told of no exit.
        """

    def release(self, container: Container) -> None:
        """The container is deleted, as far as anybody who asks can tell."""

    def forget(self, container: Container) -> None:
        """Nothing of the container is left, or it was never made."""
