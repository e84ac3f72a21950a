"""Runs a list: ADD in order, each plugin with the result of those before it; DEL in reverse, whatever fails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from intermodal_core.contracts.cni import Call, Host, Result, ValidAttachment, Verb
from intermodal_core.errors import IntermodalError, Unimplemented

from intermodal_cni.errors import INCOMPATIBLE, UNSUPPORTED_FIELD, about, number_of
from intermodal_cni.lists import NetworkList

__all__ = ["Place", "add", "capabilities", "check", "collect", "delete", "status"]


class Place(msgspec.Struct, frozen=True):
    """Where a list is applied: a container's interface, and what its runtime asks for.

    `capabilities` are values for plugins that declared the capability (`portMappings`, `bandwidth`, `ipRanges`, `ips`, `mac`,
    `dns`, ...); `args` is CNI_ARGS; `config_args` goes into each plugin's `args.cni` (the conventions' `ips`, `mac`).
    """

    container: str
    netns: str
    interface: str
    capabilities: dict[str, Any] = {}
    args: dict[str, str] = {}
    config_args: dict[str, Any] = {}


def capabilities(network: NetworkList) -> set[str]:
    """What the list's plugins together declare."""
    return {
        name for plugin in network.plugins for name, wanted in plugin.get("capabilities", {}).items() if wanted is True
    }


def add(network: NetworkList, place: Place, host: Host) -> Result:
    """ADD. Where a plugin fails, DEL of all of them follows, and its error is raised.

    Should that DEL fail, too, the error says so and has the attribute `left`: DEL is owed.
    """
    result: Result | None = None
    for plugin in network.plugins:
        try:
            result = host.delegate(plugin["type"], "ADD", call_of(network, plugin, place, result))
        except IntermodalError as error:
            failure = about(f"{plugin['type']} ADD", error)
            try:
                delete(network, place, result, host)
            except IntermodalError as again:
                failure.left = True  # type: ignore[attr-defined]
                failure.message += f"; and what was made of it could not be undone yet: {again.message}"
                failure.args = (failure.message,)
            raise failure from error
    assert result is not None
    return result


def delete(network: NetworkList, place: Place, result: Result | None, host: Host) -> None:
    """DEL of every plugin, the last one first. Raises the first error once all were asked."""
    failure: IntermodalError | None = None
    for plugin in reversed(network.plugins):
        try:
            host.delegate(plugin["type"], "DEL", call_of(network, plugin, place, result))
        except IntermodalError as error:
            failure = failure or about(f"{plugin['type']} DEL", error)
    if failure is not None:
        raise failure


def check(network: NetworkList, place: Place, result: Result, host: Host) -> None:
    """CHECK. Raises Unimplemented for a version without it."""
    if network.version < "0.4.0":
        raise Unimplemented(f"the network {network.name} is of version {network.version}, which has no CHECK")
    if not network.disable_check:
        for plugin in network.plugins:
            _ask(plugin, "CHECK", call_of(network, plugin, place, result), host)


def status(network: NetworkList, host: Host) -> None:
    """STATUS of each plugin; one of a version, or an executable, without it is taken to be well."""
    for plugin in network.plugins:
        if network.version >= "1.1.0":
            _ask(plugin, "STATUS", _for_all(network, plugin), host, optional=True)


def collect(network: NetworkList, valid: tuple[ValidAttachment, ...], host: Host) -> None:
    """GC: free what the network holds for attachments that are not valid. A plugin without it is passed over."""
    if network.disable_gc:
        return
    for plugin in network.plugins:
        call = msgspec.structs.replace(_for_all(network, plugin), valid=valid)
        _ask(plugin, "GC", call, host, optional=True)


def _ask(plugin: Mapping[str, Any], verb: Verb, call: Call, host: Host, optional: bool = False) -> None:
    try:
        host.delegate(plugin["type"], verb, call)
    except IntermodalError as error:
        # An executable of an older version knows neither the verb nor the version that it came with.
        unknown = number_of(error) in (INCOMPATIBLE, 4, UNSUPPORTED_FIELD)
        if not (optional and unknown):
            raise about(f"{plugin['type']} {verb}", error) from error


def call_of(network: NetworkList, plugin: Mapping[str, Any], place: Place, result: Result | None) -> Call:
    """What a plugin of the list gets (the specification's section 4, "deriving execution configuration")."""
    config = _config(network, plugin)
    declared = plugin.get("capabilities", {})
    wanted = {name: value for name, value in place.capabilities.items() if declared.get(name) is True}
    if wanted:
        config["runtimeConfig"] = config.get("runtimeConfig", {}) | wanted
    if place.config_args:
        args = dict(config.get("args", {}))
        args["cni"] = args.get("cni", {}) | place.config_args
        config["args"] = args
    return Call(config, place.container, place.netns, place.interface, place.args, result)


def _for_all(network: NetworkList, plugin: Mapping[str, Any]) -> Call:
    return Call(_config(network, plugin))


def _config(network: NetworkList, plugin: Mapping[str, Any]) -> dict[str, Any]:
    config = {key: value for key, value in plugin.items() if key != "capabilities"}
    return config | {"cniVersion": network.version, "name": network.name}
