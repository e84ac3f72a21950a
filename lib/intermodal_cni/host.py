"""Whoever runs types: finds a type in process or as an executable, and gives it what it may ask for."""

from __future__ import annotations

import socket
from collections.abc import Callable

from intermodal_core.contracts.cni import Call, CniType, Host, Result, Verb
from intermodal_core.errors import FailedPrecondition, NotFound
from intermodal_netlink.namespaces import Namespaces

from intermodal_cni.errors import NOT_AVAILABLE, numbered
from intermodal_cni.executables import Executables

__all__ = ["Invoke", "Types", "TypesHost", "invoke"]

#: Runs one verb of a type in process.
Invoke = Callable[[Verb, Call, Host], Result | None]
#: Finds a type that is to be had in process.
Types = Callable[[str], Invoke | None]


def invoke(instance: CniType, verb: Verb, call: Call, host: Host) -> Result | None:
    """One verb of a type's instance."""
    if verb == "ADD":
        return instance.add(call, host)
    if verb == "DEL":
        instance.delete(call, host)
    elif verb == "CHECK":
        instance.check(call, host)
    elif verb == "GC":
        instance.gc(call, host)
    else:
        try:
            instance.status(call, host)
        except (FailedPrecondition, NotFound) as error:
            raise numbered(NOT_AVAILABLE, error.message, FailedPrecondition) from error
    return None


class TypesHost:
    """Implements `intermodal_core.contracts.cni.Host`: what `types` finds runs in process, all else as an executable."""

    def __init__(self, types: Types, namespaces: Namespaces, executables: Executables) -> None:
        self._types = types
        self._namespaces = namespaces
        self._executables = executables

    def delegate(self, type: str, verb: Verb, call: Call) -> Result | None:
        """As the contract says."""
        found = self._types(type)
        return found(verb, call, self) if found is not None else self._executables.run(type, verb, call)

    def socket(self, netns: str, family: int, type: int, protocol: int = 0) -> socket.socket:
        """As the contract says."""
        return self._namespaces.socket(netns, family, type, protocol)

    def sysctl(self, netns: str, name: str, value: str | None = None) -> str:
        """As the contract says."""
        return self._namespaces.sysctl(netns, name, value)
