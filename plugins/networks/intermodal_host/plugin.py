"""The network `host`: the host's own network namespace."""

from __future__ import annotations

from intermodal_core.contracts.networks import Attachment, AttachResult
from intermodal_core.plugin import Context, NoConfig, Plugin

__all__ = ["HostNetwork", "plugin"]


class HostNetwork:
    """Implements `intermodal_core.contracts.networks.Network`: nothing is made, so nothing is undone."""

    def attach(self, attachment: Attachment) -> AttachResult:
        """Share the host's namespace."""
        return AttachResult("host")

    def detach(self, attachment: Attachment, result: bytes) -> None:
        """The host's namespace stays."""

    def check(self, attachment: Attachment, result: bytes) -> None:
        """The host's namespace is always there."""

    def gc(self, live: tuple[Attachment, ...]) -> None:
        """There is nothing to collect."""


def _make(context: Context[NoConfig]) -> HostNetwork:
    return HostNetwork()


plugin = Plugin(factory=_make)
