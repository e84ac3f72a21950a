"""The container's loopback, brought up."""

from __future__ import annotations

from intermodal_cni.types import inside, kernel
from intermodal_core.contracts.cni import Call, Host, Interface, IpConfig, Result
from intermodal_core.errors import FailedPrecondition, NotFound
from intermodal_netlink.route import IFF_UP

__all__ = ["Loopback"]


class Loopback:
    """Implements `intermodal_core.contracts.cni.CniType`. Its interface is `lo`, whatever the runtime calls it."""

    def add(self, call: Call, host: Host) -> Result:
        """Up, with the kernel's addresses; in a chain the result of those before it is passed on."""
        with inside(call, host) as links, kernel("bring lo up"):
            link = links.link("lo")
            links.set_link(link.index, up=True)
            addresses = [each.interface for each in links.addresses(link.index)]
        if call.previous is not None:
            return call.previous
        return Result(
            (Interface("lo", link.mac, sandbox=call.netns),),
            tuple(IpConfig(str(each), interface=0) for each in addresses),
        )

    def delete(self, call: Call, host: Host) -> None:
        """Down, where the namespace is there still."""
        if not call.netns:
            return
        try:
            with inside(call, host) as links, kernel("bring lo down"):
                links.set_link(links.link("lo").index, up=False)
        except NotFound:
            pass

    def check(self, call: Call, host: Host) -> None:
        """It is up."""
        try:
            with inside(call, host) as links, kernel("look at lo"):
                up = links.link("lo").flags & IFF_UP
        except NotFound as error:
            raise FailedPrecondition(error.message) from error
        if not up:
            raise FailedPrecondition(f"lo is down in {call.netns}")

    def status(self, call: Call, host: Host) -> None:
        """Every namespace has a loopback."""

    def gc(self, call: Call, host: Host) -> None:
        """It goes with its namespace."""
