"""What the services have in common: the namespace and lease of a call, and the words for a service that is not here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from intermodal_core.contracts.managers.store import Scope
from intermodal_core.registry import Registry
from intermodal_http2 import call, server

__all__ = ["Call", "Service", "unserved"]

Service = server.Service


class Call(call.Call):
    """What a method may ask of its call."""

    __slots__ = ()

    @property
    def scope(self) -> Scope:
        """The namespace and lease that the client named."""
        return Scope(self.metadata("containerd-namespace"), self.metadata("containerd-lease"))


def unserved(registry: Registry, served: Collection[str], off: Mapping[str, str]) -> Callable[[str, str], str]:
    """The sentence for a call of a method that nobody answers, for a caller's log is where somebody will look.

    `off` says of services that we have, and of which the manager is not ready, why not. Of another one it is said which
    plugins of the kind are off: it may be one of them.
    """

    def sentence(service: str, method: str) -> str:
        if service in served:
            return f"unknown method {method} for service {service}"
        said = f"unknown service {service}"
        if service in off:
            return f"{said}: {off[service]}"
        for record in registry.records("services"):
            if record.state not in ("ready", "available"):
                said += f"; {record.why_not()}"
        return said

    return sentence
