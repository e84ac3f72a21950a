"""The adapter: the network `cni`, whose types are plugins of the kind `cni` or executables."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
from intermodal_cni.executables import Executables
from intermodal_cni.host import Invoke, TypesHost, invoke_async
from intermodal_core.contracts.cni import Call, Host, Result, Verb
from intermodal_core.errors import FailedPrecondition, Unavailable
from intermodal_core.plugin import Context, Plugin
from intermodal_core.registry import Registry
from intermodal_netlink.namespaces import Keeper

from intermodal_cni_network.network import CniNetwork

__all__ = ["Config", "plugin"]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of `[networks.cni]`."""

    default: Annotated[
        str,
        msgspec.Meta(description="The network of containers that name none; empty: the first, our own before others'."),
    ] = ""
    directories: Annotated[
        tuple[str, ...], msgspec.Meta(description="Where other programs keep their lists, which are only read.")
    ] = ("/etc/cni/net.d",)
    bin: Annotated[
        tuple[str, ...], msgspec.Meta(description="Where executables of types are that no plugin here offers.")
    ] = ("/opt/cni/bin", "/usr/libexec/cni", "/usr/lib/cni")
    executable_deadline: Annotated[
        float, msgspec.Meta(gt=0, description="Seconds that an executable has for one call.")
    ] = 20.0


class _InProcess:
    """Types that are plugins of this daemon, called from the threads of chains; each is guarded, as all plugins are."""

    def __init__(self, registry: Registry, loop: asyncio.AbstractEventLoop) -> None:
        if not hasattr(registry, "records"):
            raise FailedPrecondition('chains are run in the daemon: isolation = "process" goes with their types alone')
        self._registry = registry
        self._loop = loop
        self._offered = {record.name for record in registry.records("cni") if record.state != "disabled"}

    def find(self, type: str) -> Invoke | None:
        if type not in self._offered:
            return None

        def run(verb: Verb, call: Call, host: Host) -> Result | None:
            return asyncio.run_coroutine_threadsafe(self._run(type, verb, call, host), self._loop).result()

        return run

    async def _run(self, type: str, verb: Verb, call: Call, host: Host) -> Result | None:
        try:
            instance = await self._registry.require("cni", type)
        except FailedPrecondition as error:
            raise Unavailable(error.message) from error
        return await invoke_async(instance, verb, call, host)


class _Timed(TypesHost):
    """Writes down what each type and verb took, in the order in which they ended."""

    def __init__(self, timings: list[tuple[str, float]], *parts: Any) -> None:
        super().__init__(*parts)
        self._timings = timings

    def delegate(self, type: str, verb: Verb, call: Call) -> Result | None:
        began = time.perf_counter()
        try:
            return super().delegate(type, verb, call)
        finally:
            self._timings.append((f"{type} {verb}", time.perf_counter() - began))


class _Life(CniNetwork):
    """The network, which knows the daemon's loop once it is entered."""

    def __init__(self, context: Context[Config]) -> None:
        config = context.config
        self._keeper = Keeper.of(context.spawner)
        self._registry = context.registry
        self._types: _InProcess | None = None
        executables = Executables(config.bin, context.spawner.run, config.executable_deadline)

        def host_for(timings: list[tuple[str, float]]) -> Host:
            assert self._types is not None
            return _Timed(timings, self._types.find, self._keeper, executables)

        # Made at its first use: a disk that is full for a while is no fault of this plugin.
        context.exports["root"] = str(context.root)
        super().__init__(context.root, tuple(map(Path, config.directories)), host_for, config.default)

    async def __aenter__(self) -> _Life:
        self._types = _InProcess(self._registry, asyncio.get_running_loop())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._keeper.close()  # who needs it once more gets another one


plugin = Plugin(
    factory=_Life,
    config=Config,
    capabilities=("netns", "lists"),
    forked=("intermodal_netlink.namespaces",),
)
