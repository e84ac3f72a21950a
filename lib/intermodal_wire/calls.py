"""What the services have in common: the namespace and lease of a call."""

from __future__ import annotations

from intermodal_core.contracts.managers.store import Scope
from intermodal_http2 import call, server

__all__ = ["Call", "Service"]

Service = server.Service


class Call(call.Call):
    """What a method may ask of its call."""

    __slots__ = ()

    @property
    def scope(self) -> Scope:
        """The namespace and lease that the client named."""
        return Scope(self.metadata("containerd-namespace"), self.metadata("containerd-lease"))
