"""The networks manager: which container is in which network, what was made for it, and what is still owed.

It knows no CNI: a network is an instance of the kind `networks`, or one of the lists of an instance that has several. An attachment
is recorded before it is made and forgotten once it is undone; one that could not be undone is a debt, tried again until it is
paid, and nobody waits for it.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import msgspec

from intermodal_core.contracts.common import Mount
from intermodal_core.contracts.managers.store import Scope
from intermodal_core.contracts.metadata import Transaction
from intermodal_core.contracts.networks import NetworkSpec, NetworkView, PortMapping

__all__ = ["AttachmentView", "Networks", "Plan", "Wanted"]


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a container asks for. Ports, addresses and mac are of its first network; `network` names the default."""

    networks: tuple[str, ...] = ()
    default: str = ""
    ports: tuple[PortMapping, ...] = ()
    addresses: tuple[str, ...] = ()
    mac: str = ""
    dns: tuple[str, ...] = ()
    hostname: str = ""


class Plan(msgspec.Struct, frozen=True):
    """What the container's spec gets. `networks` are the names that were found for what is wanted."""

    networks: tuple[str, ...]
    mode: Literal["host", "new", "path"]
    netns: str = ""
    mounts: tuple[Mount, ...] = ()


class AttachmentView(msgspec.Struct, frozen=True):
    """An attachment as lists show it; `state` is "begun", "attached" or "owed", the last one with the error and the next try."""

    namespace: str
    container: str
    network: str
    interface: str
    state: str
    addresses: tuple[str, ...] = ()
    ports: tuple[PortMapping, ...] = ()
    error: str = ""
    tries: int = 0
    retry_at: int = 0


class Networks(Protocol):
    """The manager."""

    async def plan(self, scope: Scope, container: str, wanted: Wanted) -> Plan:
        """What a container that wants this will get; nothing is made.

        Raises NotFound for a network that is not there, naming those that are; InvalidArgument for what does not go together.
        """

    async def prepare(self, scope: Scope, container: str, wanted: Wanted) -> None:
        """Record the attachments, and make the namespace and the files that `plan` told of.

        Waits for the end of the last run's attachments. Raises FailedPrecondition where one of them is still owed.
        """

    async def attach(self, scope: Scope, container: str) -> tuple[AttachmentView, ...]:
        """Make what `prepare` recorded. On an error nothing of it stays but debts."""

    def release(self, scope: Scope, container: str) -> None:
        """Begin to undo all of a container's attachments, and forget its namespace; its processes have ended."""

    async def connect(self, scope: Scope, container: str, network: str, wanted: Wanted) -> AttachmentView:
        """Add one more network to a container that runs. Raises AlreadyExists, FailedPrecondition."""

    async def disconnect(self, scope: Scope, container: str, network: str) -> None:
        """Take a container that runs out of a network. Raises NotFound."""

    async def keep(self, running: set[tuple[str, str]]) -> None:
        """After a restart: release all that is not of these containers (namespace, id)."""

    def forget(self, tx: Transaction, namespace: str, container: str) -> None:
        """A container is removed: its addresses are no longer kept for it."""

    async def attachments(self, network: str = "", container: tuple[str, str] | None = None) -> list[AttachmentView]:
        """Those of a network, of a container (namespace, id), or all."""

    async def views(self) -> list[NetworkView]:
        """All networks, the default one first."""

    async def inspect(self, network: str) -> dict[str, Any]:
        """Everything known of one, ready for JSON."""

    async def create(self, spec: NetworkSpec) -> NetworkView:
        """Make a network."""

    async def remove(self, network: str) -> None:
        """Remove a network that was made here. Raises FailedPrecondition while it is in use."""

    async def prune(self, wanted: set[str]) -> list[str]:
        """Remove those made here that nobody is in, but for those in `wanted` and the default; their names."""
