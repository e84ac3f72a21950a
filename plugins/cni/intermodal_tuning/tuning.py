"""Sysctls and link attributes of the container, as they were before put back by DEL."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
from intermodal_cni.types import inside, kernel, read
from intermodal_core.contracts.cni import Call, Host, Result
from intermodal_core.errors import FailedPrecondition, InvalidArgument, NotFound
from intermodal_netlink.route import IFF_ALLMULTI, IFF_PROMISC, Link, RouteSocket

__all__ = ["Tuning"]

DATA = "/run/cni/tuning"
_MAC = re.compile(r"[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}")


class _RuntimeConfig(msgspec.Struct):
    mac: str = ""


class _Config(msgspec.Struct):
    sysctl: dict[str, str] = {}
    mac: str = ""
    promisc: bool = False
    mtu: int = 0
    allmulti: bool | None = None
    tx_qlen: int | None = msgspec.field(default=None, name="txQLen")
    data_dir: str = msgspec.field(default=DATA, name="dataDir")
    runtime_config: _RuntimeConfig = msgspec.field(default_factory=_RuntimeConfig, name="runtimeConfig")


class Tuning:
    """Implements `intermodal_core.contracts.cni.CniType`. Only the sysctls of `net` are a namespace's own."""

    def add(self, call: Call, host: Host) -> Result:
        """Set what the configuration asks for; what was there before is written down first."""
        config = _read(call)
        if call.previous is None:
            raise InvalidArgument(
                "tuning comes after the plugin that makes the container's link: it needs a prevResult"
            )
        wanted = _wanted(config, call)
        before: dict[str, Any] = {"sysctl": {}}
        try:
            with inside(call, host) as links, kernel(f"tune {call.interface}"):
                for name in config.sysctl:
                    before["sysctl"][name] = host.sysctl(call.netns, _path(name, call))
                link = links.link(call.interface)
                before["link"] = {key: _now(link)[key] for key in wanted}
                _write(config, call, before)
                for name, value in config.sysctl.items():
                    host.sysctl(call.netns, _path(name, call), value)
                if wanted:
                    _set(links, link, wanted)
        except BaseException:
            _put_back(call, host, before)
            _file(config, call).unlink(missing_ok=True)
            raise
        return _result(call.previous, call, wanted)

    def delete(self, call: Call, host: Host) -> None:
        """Put back what was there, where the namespace is there still."""
        config = read(call, _Config)
        path = _file(config, call)
        try:
            before = json.loads(path.read_text())
        except (OSError, ValueError):
            before = {}
        _put_back(call, host, before)
        path.unlink(missing_ok=True)

    def check(self, call: Call, host: Host) -> None:
        """All is as it was set."""
        config = _read(call)
        try:
            for name, value in config.sysctl.items():
                there = host.sysctl(call.netns, _path(name, call))
                if there.split() != value.split():
                    raise FailedPrecondition(f"{name} is {there} in {call.netns}, and {value} was set")
            wanted = _wanted(config, call)
            if wanted:
                with inside(call, host) as links, kernel(f"look at {call.interface}"):
                    now = _now(links.link(call.interface))
                for key, value in wanted.items():
                    if now[key] != value:
                        raise FailedPrecondition(f"{key} of {call.interface} is {now[key]}, and {value} was set")
        except NotFound as error:
            raise FailedPrecondition(error.message) from error

    def status(self, call: Call, host: Host) -> None:
        """There is nothing to run out of."""

    def gc(self, call: Call, host: Host) -> None:
        """What was written down of the dead. Their namespaces are gone."""
        config = read(call, _Config)
        directory = Path(config.data_dir)
        valid = {_file_name(call.config["name"], each.container, each.interface) for each in call.valid}
        prefix = f"{call.config['name']} "
        for path in directory.glob("*.json") if directory.is_dir() else ():
            if path.name.startswith(prefix) and path.name not in valid:
                path.unlink(missing_ok=True)


def _read(call: Call) -> _Config:
    config = read(call, _Config)
    for name in config.sysctl:
        parts = _slashed(name).split("/")
        if parts[0] != "net" or ".." in parts or "" in parts:
            raise InvalidArgument(f"sysctl {name} is not one of net, which alone are a container's own")
    mac = config.runtime_config.mac or call.args.get("MAC", "") or config.mac
    if mac and not _MAC.fullmatch(mac):
        raise InvalidArgument(f"mac {mac!r} is none: write six pairs of hexadecimal digits, with : between")
    if config.mtu < 0 or (config.tx_qlen or 0) < 0:
        raise InvalidArgument("mtu and txQLen cannot be less than nothing")
    return config


def _path(name: str, call: Call) -> str:
    """net.ipv4.conf.IFNAME.x, or with slashes (then a dot may be in an interface's name), as a path below net."""
    return _slashed(name).removeprefix("net/").replace("IFNAME", call.interface)


def _slashed(name: str) -> str:
    return name if "/" in name else name.replace(".", "/")


def _wanted(config: _Config, call: Call) -> dict[str, Any]:
    wanted: dict[str, Any] = {}
    if mac := config.runtime_config.mac or call.args.get("MAC", "") or config.mac:
        wanted["mac"] = mac.lower().replace("-", ":")
    if config.promisc:
        wanted["promisc"] = True
    if config.mtu:
        wanted["mtu"] = config.mtu
    if config.allmulti is not None:
        wanted["allmulti"] = config.allmulti
    if config.tx_qlen is not None:
        wanted["txQLen"] = config.tx_qlen
    return wanted


def _now(link: Link) -> dict[str, Any]:
    return {
        "mac": link.mac,
        "promisc": bool(link.flags & IFF_PROMISC),
        "mtu": link.mtu,
        "allmulti": bool(link.flags & IFF_ALLMULTI),
        "txQLen": link.txqlen,
    }


def _set(links: RouteSocket, link: Link, values: dict[str, Any]) -> None:
    links.set_link(
        link.index,
        mac=values.get("mac", ""),
        mtu=values.get("mtu", 0),
        promiscuous=values.get("promisc"),
        allmulti=values.get("allmulti"),
        txqlen=values.get("txQLen"),
    )


def _put_back(call: Call, host: Host, before: dict[str, Any]) -> None:
    if not call.netns:
        return
    try:
        for name, value in before.get("sysctl", {}).items():
            host.sysctl(call.netns, _path(name, call), value)
        if before.get("link"):
            with inside(call, host) as links, kernel(f"put {call.interface} back"):
                link = links.find(call.interface)
                if link is not None:
                    _set(links, link, before["link"])
    except NotFound:
        pass  # it went with the namespace


def _result(previous: Result, call: Call, wanted: dict[str, Any]) -> Result:
    """The result of the chain, with what was changed of the container's link."""
    changed = {key: wanted[key] for key in ("mac", "mtu") if key in wanted}
    return msgspec.structs.replace(
        previous,
        interfaces=tuple(
            msgspec.structs.replace(each, **changed) if each.sandbox and each.name == call.interface else each
            for each in previous.interfaces
        ),
    )


def _file_name(network: str, container: str, interface: str) -> str:
    return f"{network} {container} {interface}.json"


def _file(config: _Config, call: Call) -> Path:
    return Path(config.data_dir) / _file_name(call.config["name"], call.container, call.interface)


def _write(config: _Config, call: Call, before: dict[str, Any]) -> None:
    path = _file(config, call)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_text(json.dumps(before))
