"""Whoever runs types: finds a type in process or as an executable, and gives it what it may ask for."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from intermodal_core.contracts.cni import Call, CniType, Host, Result, Verb
from intermodal_core.errors import FailedPrecondition, IntermodalError, NotFound
from intermodal_netlink.namespaces import Namespaces

from intermodal_cni.errors import NOT_AVAILABLE, numbered
from intermodal_cni.executables import Executables

__all__ = ["Invoke", "Types", "TypesHost", "invoke", "invoke_async"]

#: Runs one verb of a type in process.
Invoke = Callable[[Verb, Call, Host], Result | None]
#: Finds a type that is to be had in process.
Types = Callable[[str], Invoke | None]

_METHODS = {"ADD": "add", "DEL": "delete", "CHECK": "check", "STATUS": "status", "GC": "gc"}


async def invoke_async(instance: Any, verb: Verb, call: Call, host: Host) -> Result | None:
    """One verb of a type that is guarded by the core: its methods are awaited."""
    try:
        answer = await getattr(instance, _METHODS[verb])(call, host)
    except (FailedPrecondition, NotFound) as error:
        if verb == "STATUS":
            raise _unavailable(error) from error
        raise
    return answer if verb == "ADD" else None


def invoke(instance: CniType, verb: Verb, call: Call, host: Host) -> Result | None:
    """One verb of a type's instance."""
    try:
        answer = getattr(instance, _METHODS[verb])(call, host)
    except (FailedPrecondition, NotFound) as error:
        if verb == "STATUS":
            raise _unavailable(error) from error
        raise
    return answer if verb == "ADD" else None


def _unavailable(error: IntermodalError) -> IntermodalError:
    return numbered(NOT_AVAILABLE, error.message, FailedPrecondition)


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
