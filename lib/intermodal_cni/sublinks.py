"""Types whose link hangs on one of the host's, or of the container's: macvlan, ipvlan, vlan."""

from __future__ import annotations

import errno
from abc import abstractmethod
from typing import Generic, TypeVar

import msgspec
from intermodal_core.contracts.cni import Call, Host, Interface, Result
from intermodal_core.errors import AlreadyExists, InvalidArgument, NotFound
from intermodal_netlink.route import Link, RouteSocket

from intermodal_cni.links import LinkType, default_link, link_of
from intermodal_cni.types import (
    allocate,
    configure,
    inside,
    kernel,
    names,
    namespace,
    on_host,
    placed,
    read,
    refuse_taken,
    release,
    undone,
)

__all__ = ["SubConfig", "SubLink"]


class SubConfig(msgspec.Struct, rename="camel"):
    """The keys that all of them have. Without `master` it is the link of the default route."""

    master: str = ""
    mtu: int = 0
    link_in_container: bool = False


C = TypeVar("C", bound=SubConfig)


class SubLink(LinkType, Generic[C]):
    """Makes a link on `master`, moves it into the container, and gives it what the address manager gave."""

    config: type[C]

    @abstractmethod
    def info(self, config: C, call: Call) -> tuple[bytes, str]:
        """The attribute that says what is to be made, and its hardware address ("": the kernel's choice).

        Raises InvalidArgument for a configuration that is wrong.
        """

    def add(self, call: Call, host: Host) -> Result:
        """The link, configured."""
        config = read(call, self.config)
        info, mac = self.info(config, call)
        if config.mtu < 0:
            raise InvalidArgument(f"mtu {config.mtu} is less than nothing")
        with namespace(call) as netns, inside(call, host) as within, on_host(host) as outside:
            makes = within if config.link_in_container else outside
            with kernel(f"make {call.interface}"):
                refuse_taken(call, within)
                master = link_of(makes, config.master) if config.master else default_link(makes)
                if config.mtu > master.mtu:
                    raise InvalidArgument(f"mtu {config.mtu} is more than that of {master.name}, {master.mtu}")
                self._make(makes, call, info, mac, config, master, -1 if config.link_in_container else netns)
            with undone(lambda: within.delete_link(call.interface)):
                given = allocate(call, host)
                with undone(lambda: release(call, host)), kernel(f"configure {call.interface}"):
                    link = within.link(call.interface)
                    configure(within, link.index, given, host, call)
        made = Interface(call.interface, link.mac, config.mtu, call.netns)
        return Result((made,), placed(given.ips, 0), given.routes, names(call, given.dns))

    def _make(self, makes: RouteSocket, call: Call, info: bytes, mac: str, config: C, master: Link, netns: int) -> None:
        try:
            makes.add_link(call.interface, info, mac=mac, mtu=config.mtu or master.mtu, lower=master.index, netns=netns)
        except OSError as error:
            if error.errno == errno.EEXIST:
                raise AlreadyExists(f"{call.interface} cannot be made on {master.name}: {error.strerror}") from error
            if error.errno == errno.EOPNOTSUPP:
                raise InvalidArgument(f"this kernel has no links of the kind {self.kind}") from error
            raise

    def delete(self, call: Call, host: Host) -> None:
        """The link goes, where the namespace is there still, and the addresses are given back."""
        if call.netns:
            try:
                with inside(call, host) as within, kernel(f"remove {call.interface}"):
                    link = within.find(call.interface)
                    if link is not None and link.kind == self.kind:
                        within.delete_link(call.interface)
            except NotFound:
                pass
        release(call, host)
