"""The runtime of a container: what it is when the container is made, and the same again until it is deleted."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgspec
from intermodal_core.contracts.managers.store import Choice
from intermodal_core.contracts.runtimes import RuntimeInfo
from intermodal_core.errors import FailedPrecondition, NotFound
from intermodal_core.registry import Registry

__all__ = ["pin", "pinned"]

_KIND = "runtimes"


async def pin(registry: Registry, name: str, why: str) -> Choice:
    """What the runtime of that name, an instance's or a shim's absolute path, is now on this machine.

    Raises FailedPrecondition where it cannot be had.
    """
    if name.startswith("/"):
        plugin = (await registry.capable(_KIND, "any-shim")).plugin_id
        choice = Choice(os.path.basename(name), plugin, name, why=why, options={"binary": name})
        info: RuntimeInfo = await (await pinned(registry, choice)).info()
        return msgspec.structs.replace(choice, binary=info.binary, version=info.version)
    record = registry.find(_KIND, name)
    try:
        info = await (await registry.require(_KIND, name)).info()
    except (FailedPrecondition, NotFound) as error:
        place = f"; its options are those of {where}" if (where := record.section.where()) != "default" else ""
        raise FailedPrecondition(f"the runtime {name} ({why}) cannot be used: {error}{place}") from error
    return Choice(name, record.plugin_id, info.binary, info.version, why, _with_binary(record.options, info))


async def pinned(registry: Registry, choice: Choice) -> Any:
    """The instance that `choice` means. Raises FailedPrecondition where it cannot be had."""
    if choice.options is None:
        return await registry.require(_KIND, choice.instance)
    record = registry.get(_KIND, choice.instance)
    if record is not None and record.plugin_id == choice.plugin and record.state in ("available", "ready"):
        runtime = await registry.require(_KIND, choice.instance)
        if record.options == choice.options or _with_binary(record.options, await runtime.info()) == choice.options:
            return runtime
    try:
        return await registry.variant(_KIND, choice.instance, choice.plugin, choice.options)
    except FailedPrecondition as error:
        raise FailedPrecondition(f"the runtime {choice.instance} that the container was made with: {error}") from error


def _with_binary(options: Mapping[str, Any], info: RuntimeInfo) -> dict[str, Any]:
    """The options with the path that was found: a name may mean another file tomorrow."""
    return {**options, **({"binary": info.binary} if "binary" in options and info.binary else {})}
