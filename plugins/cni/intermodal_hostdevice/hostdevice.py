"""One of the host's devices, lent to the container."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
from intermodal_cni.links import LinkType
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
)
from intermodal_core.contracts.cni import Call, Host, Interface, Result
from intermodal_core.errors import FailedPrecondition, InvalidArgument, NotFound
from intermodal_netlink.route import Link, RouteSocket

__all__ = ["HostDevice"]


class _RuntimeConfig(msgspec.Struct):
    device_id: str = msgspec.field(default="", name="deviceID")


class _Config(msgspec.Struct):
    device: str = ""
    hwaddr: str = ""
    kernelpath: str = ""
    pci_bus_id: str = msgspec.field(default="", name="pciBusID")
    runtime_config: _RuntimeConfig = msgspec.field(default_factory=_RuntimeConfig, name="runtimeConfig")


class HostDevice(LinkType):
    """Implements `intermodal_core.contracts.cni.CniType`. The device remembers its name on the host in its alias."""

    def add(self, call: Call, host: Host) -> Result:
        """Move the device into the container, under the interface's name, and configure it."""
        config = read(call, _Config)
        with namespace(call) as netns, on_host(host) as links, inside(call, host) as within:
            with kernel("move a device into the container"):
                refuse_taken(call, within)
                device = _device(links, config)
                links.set_link(device.index, up=False)
                links.set_link(device.index, name=call.interface, netns=netns, alias=device.name)
            try:
                given = allocate(call, host)
                try:
                    with kernel(f"configure {call.interface}"):
                        link = within.link(call.interface)
                        configure(within, link.index, given, host, call)
                except BaseException:
                    release(call, host)
                    raise
            except BaseException:
                _give_back(within, call)
                raise
        return Result(
            (Interface(call.interface, link.mac, sandbox=call.netns),),
            placed(given.ips, 0),
            given.routes,
            names(call, given.dns),
        )

    def delete(self, call: Call, host: Host) -> None:
        """Move it back, under its own name; with a namespace that is gone the kernel gave it back already."""
        if call.netns:
            try:
                with inside(call, host) as within, kernel("move a device back to the host"):
                    _give_back(within, call)
            except NotFound:
                pass
        release(call, host)


def _give_back(within: RouteSocket, call: Call) -> None:
    link = within.find(call.interface)
    if link is None or not link.alias:
        return
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        within.set_link(link.index, up=False)
        within.set_link(link.index, name=link.alias, netns=home, alias="")
    finally:
        os.close(home)


def _device(links: RouteSocket, config: _Config) -> Link:
    """The device that the configuration names, in one of five ways. Raises InvalidArgument, FailedPrecondition."""
    pci = config.runtime_config.device_id or config.pci_bus_id
    if config.device:
        name = config.device
    elif config.hwaddr:
        wanted = config.hwaddr.lower().replace("-", ":")
        name = next((link.name for link in links.links() if link.mac == wanted), "")
    elif pci or config.kernelpath:
        top = Path(f"/sys/bus/pci/devices/{pci}") if pci else Path(config.kernelpath)
        if not top.is_absolute() or ".." in top.parts:
            raise InvalidArgument(f"kernelpath {config.kernelpath} must be a path below /sys")
        name = next((path.name for path in sorted((top / "net").glob("*"))), "")
    else:
        raise InvalidArgument("a host device is named by device, hwaddr, kernelpath or pciBusID: write one")
    link = links.find(name) if name else None
    if link is None:
        raise FailedPrecondition(f"the host has no device {name or pci or config.hwaddr or config.kernelpath}")
    return link
