"""Networks: what a container's network namespace is and is connected to.

Vocabulary. An *attachment* is one container's place in one network, by an id that is its own for ever. The *result* is what the
backend wants to know of it later: the caller keeps it and understands nothing of it.

Life cycle: `attach`, before the container's runtime is asked for anything -> `check`, at any time -> `detach`, once its task has
ended, or after a crash, then perhaps without a result. The caller has recorded the attachment before `attach`, so that
whatever a crash leaves is detached by the next daemon; `gc` is for what nobody has a record of, at a new boot and on a timer.

Calls for different attachments run at once; those for one come one after the other, and `gc` may run beside them: what is being
attached is in its `live`.

Public specification followed: the CNI specification 1.1, in what its verbs promise. Addresses are in CIDR notation.
"""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

import msgspec

from intermodal_core.contracts.cni import Dns

__all__ = [
    "VERSION",
    "AttachResult",
    "Attachment",
    "Network",
    "NetworkLists",
    "NetworkSpec",
    "NetworkView",
    "PortMapping",
]

VERSION = 1


class PortMapping(msgspec.Struct, frozen=True, omit_defaults=True):
    """A port of the host (of one of its addresses, "" for all) that leads to one of the container; tcp, udp or sctp."""

    host_port: int
    container_port: int
    protocol: str = "tcp"
    host_ip: str = ""


class Attachment(msgspec.Struct, frozen=True):
    """One container's place in one network; `netns` is "" where none is made.

    `id` names it for detach and gc; it may hold a slash, so it is no file name. `network` is the list's name where the instance
    has several. `ports`, `addresses`, `mac` and `dns` are what was asked for; `preferred` are addresses that it had before
    and is to have again where they are free. `options` are the backend's own.
    """

    id: str
    namespace: str
    container: str
    network: str
    netns: str = ""
    interface: str = "eth0"
    options: dict[str, str] = {}
    ports: tuple[PortMapping, ...] = ()
    addresses: tuple[str, ...] = ()
    preferred: tuple[str, ...] = ()
    mac: str = ""
    dns: tuple[str, ...] = ()


class AttachResult(msgspec.Struct, frozen=True):
    """What came of it.

    `mode` says what the container's spec gets: the host's namespace, a new empty one, or the one at `netns`.
    `result` is the backend's own record, as JSON, handed back to `detach` and `check`. `timings` are what the backend's parts
    took: a name ("bridge ADD") and seconds.
    """

    mode: Literal["host", "new", "path"]
    netns: str = ""
    addresses: tuple[str, ...] = ()
    result: bytes = b"{}"
    dns: Dns = Dns()
    timings: tuple[tuple[str, float], ...] = ()


@runtime_checkable
class Network(Protocol):
    """A network backend.

    Capability `netns`: the caller makes a namespace first and passes its path; without it `attach` makes nothing that outlasts the
    call, and is called again whenever its answer is needed. Capability `lists`: the instance has several
    networks, and is a `NetworkLists`, too.
    """

    def attach(self, attachment: Attachment) -> AttachResult:
        """[N1] Connect. On an error nothing of it remains."""

    def detach(self, attachment: Attachment, result: bytes) -> None:
        """[N2] Undo `attach`; idempotent, also when the namespace is gone or attach never finished."""

    def check(self, attachment: Attachment, result: bytes) -> None:
        """[N3] Raise FailedPrecondition when what `attach` made is no longer there."""

    def gc(self, live: tuple[Attachment, ...]) -> None:
        """[N4] Free what belongs to no attachment in `live`; no other call is under way."""


class NetworkView(msgspec.Struct, frozen=True):
    """A network as lists show it. `own`: it was made here, and may be removed here; `error`: why it cannot be used."""

    name: str
    driver: str
    subnets: tuple[str, ...] = ()
    own: bool = False
    source: str = ""
    document: bytes = b"{}"
    error: str = ""


class NetworkSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A network to be made. No subnet: one that nothing uses. `internal`: it leads nowhere outside."""

    name: str
    driver: str = "bridge"
    subnets: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    internal: bool = False
    mtu: int = 0
    options: dict[str, str] = {}


class NetworkLists(Protocol):
    """What a backend with the capability `lists` has besides."""

    def views(self) -> tuple[NetworkView, ...]:
        """All of its networks, the default one first, and those that cannot be used, with why."""

    def create(self, spec: NetworkSpec) -> NetworkView:
        """Make a network. Raises AlreadyExists, InvalidArgument, FailedPrecondition (an overlapping subnet)."""

    def remove(self, name: str) -> None:
        """Remove a network and what it keeps. Raises NotFound, FailedPrecondition (not made here)."""
