"""The words for a service that is not here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from intermodal_core.registry import Registry

__all__ = ["unserved"]


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
            asked_for = record.state != "skipped" or record.section.options  # some are off until a section is written
            if record.state not in ("ready", "available") and asked_for:
                said += f"; {record.why_not()}"
        return said

    return sentence
