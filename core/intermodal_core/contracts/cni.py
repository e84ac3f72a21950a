"""CNI types: what a network configuration's `type` names, made by entry points rather than by executables.

Life cycle, of one container's interface: `add`, in the order of the list -> `check` -> `delete`, in the reverse order. Of a network:
`status` before it is used, `gc` with all that is attached to it.

The words are those of the CNI specification 1.1. A type works on values of that version only: whoever runs it (a chain of the
daemon, or the executable `imod-cni`) translates from and to the version of the configuration. Errors are the core's, by
meaning; whoever runs a type gives them their number: InvalidArgument is 7, NotFound (of the namespace) 3, Unimplemented 2,
Unavailable, Aborted and DeadlineExceeded 11, FailedPrecondition of `status` 50, and others 100 and up.
"""

from __future__ import annotations

import socket
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec

__all__ = [
    "VERSION",
    "Call",
    "CniType",
    "Dns",
    "Host",
    "Interface",
    "IpConfig",
    "Result",
    "Route",
    "ValidAttachment",
    "Verb",
]

VERSION = 1

Verb = Literal["ADD", "DEL", "CHECK", "STATUS", "GC"]


class Dns(msgspec.Struct, frozen=True, omit_defaults=True):
    """Name servers and how names are looked up."""

    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class Interface(msgspec.Struct, frozen=True, omit_defaults=True):
    """A link; `sandbox` is the path of its namespace, "" for the host's."""

    name: str
    mac: str = ""
    mtu: int = 0
    sandbox: str = ""
    socket_path: str = msgspec.field(default="", name="socketPath")
    pci_id: str = msgspec.field(default="", name="pciID")


class IpConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """An address in CIDR notation; `interface` is an index into the result's interfaces."""

    address: str
    gateway: str = ""
    interface: int | None = None


class Route(msgspec.Struct, frozen=True, omit_defaults=True):
    """A route; without `gw` by the gateway of the address of its family."""

    dst: str
    gw: str = ""
    mtu: int = 0
    advmss: int = 0
    priority: int = 0
    table: int | None = None
    scope: int | None = None


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """What ADD came to: of a chain, of one type, or of an address manager (which has no interfaces)."""

    interfaces: tuple[Interface, ...] = ()
    ips: tuple[IpConfig, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: Dns = Dns()


class ValidAttachment(msgspec.Struct, frozen=True, rename={"container": "containerID", "interface": "ifname"}):
    """An attachment that GC leaves alone; `cni.dev/valid-attachments` of the specification."""

    container: str
    interface: str


class Call(msgspec.Struct, frozen=True):
    """One call of a type: the variables CNI_*, and the configuration as the specification gives it to a plugin.

    `config` has `name`, `type`, `cniVersion`, the type's own keys, `ipam` for one that delegates, and `runtimeConfig` with what the
    type's capabilities asked for. `previous` is the result of the chain so far; of DEL and CHECK that of the ADD, where
    it is known. `valid` is for GC alone.
    """

    config: dict[str, Any]
    container: str = ""
    netns: str = ""
    interface: str = ""
    args: dict[str, str] = {}
    previous: Result | None = None
    valid: tuple[ValidAttachment, ...] = ()


class Host(Protocol):
    """What a type may ask of whoever runs it. Blocking; from the thread of the call."""

    def delegate(self, type: str, verb: Verb, call: Call) -> Result | None:
        """Run another type (an address manager, mostly): in process where there is an entry point, else its executable.

        Raises what that raises; Unavailable for a type that is not to be had.
        """

    def socket(self, netns: str, family: int, type: int, protocol: int = 0) -> socket.socket:
        """A socket in the network namespace `netns`, "" for the host's. Raises NotFound when it is gone."""

    def sysctl(self, netns: str, name: str, value: str | None = None) -> str:
        """Read `net.NAME` ("ipv4/ip_forward") of a namespace, and set it where a `value` is given; what it was."""


@runtime_checkable
class CniType(Protocol):
    """One CNI type. Calls for different containers run at once; calls for one container and interface do not.

    [P1] The configuration is checked before anything is made: InvalidArgument says which key is wrong, and why.
    """

    def add(self, call: Call, host: Host) -> Result:
        """[P2] Make it, and return the result, with that of the chain before it in it. On an error nothing of it remains.

        Raises AlreadyExists where the interface's name is taken, NotFound where the namespace is gone.
        """

    def delete(self, call: Call, host: Host) -> None:
        """[P3] Undo `add`; idempotent: also when the namespace is gone, `add` never finished or `previous` is not known."""

    def check(self, call: Call, host: Host) -> None:
        """[P4] Raise FailedPrecondition when what `add` made, as `previous` tells of it, is not there any more."""

    def status(self, call: Call, host: Host) -> None:
        """[P5] Raise FailedPrecondition when no `add` with this configuration could succeed now."""

    def gc(self, call: Call, host: Host) -> None:
        """[P6] Free what this network holds for attachments that are not in `call.valid`; what others hold stays."""
