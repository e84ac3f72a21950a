"""The network `none`: a namespace of the container's own that leads nowhere."""

from __future__ import annotations

from intermodal_core.contracts.networks import Attachment, AttachResult
from intermodal_core.plugin import Context, NoConfig, Plugin

__all__ = ["NoNetwork", "plugin"]


class NoNetwork:
    """Implements `intermodal_core.contracts.networks.Network`: the runtime makes a namespace with loopback alone."""

    def attach(self, attachment: Attachment) -> AttachResult:
        """Nothing to connect."""
        return AttachResult("new")

    def detach(self, attachment: Attachment, result: bytes) -> None:
        """The namespace goes with the container's last process."""

    def check(self, attachment: Attachment, result: bytes) -> None:
        """There is nothing that could be gone."""

    def gc(self, live: tuple[Attachment, ...]) -> None:
        """There is nothing to collect."""


def _make(context: Context[NoConfig]) -> NoNetwork:
    return NoNetwork()


plugin = Plugin(factory=_make)
