"""The process of one plugin with `isolation = "process"`: imports it, makes the instance, serves the daemon's calls.

Two loops: the main thread's is the plugin's own, another thread's talks to the daemon. So a plugin that blocks its loop can
still be told to end, and the process ends when the daemon does.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import os
import pickle
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, get_type_hints

import msgspec
import pluggy

from intermodal_core import syscalls
from intermodal_core.calls import Guard, Pool
from intermodal_core.config import Section
from intermodal_core.discovery import Found
from intermodal_core.errors import FailedPrecondition
from intermodal_core.events import Event, EventBus
from intermodal_core.hooks import PROJECT, CoreHooks
from intermodal_core.kinds import Kind
from intermodal_core.loading import LoadError, construct, import_plugin, load_attribute
from intermodal_core.peer import Method, Peer, methods_of
from intermodal_core.plugin import Context
from intermodal_core.spawner import Spawner

__all__ = ["Constructed", "Hook", "Host", "Registration", "Start", "attributes_of", "contract_of", "main"]

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@dataclass(frozen=True)
class Start:
    """What the process must know of the plugin, the daemon and its config. `interfaces` are the contracts by kind."""

    found: Found
    kind: Kind
    section: Section
    root: Path
    state: Path
    address: str
    deadline: float
    limit: float
    threads: int
    log_level: int
    interfaces: Mapping[str, str]


class Registration(msgspec.Struct, frozen=True):
    """What the daemon must know of a plugin; the fields of `intermodal_core.plugin.Plugin`."""

    requires: tuple[str, ...]
    forked: tuple[str, ...]
    contract: int
    capabilities: tuple[str, ...]
    exports: dict[str, str]
    annotations: tuple[str, ...]


class Hook(msgspec.Struct, frozen=True):
    """An implementation of a hook: how it was marked, and which of the hook's arguments it takes."""

    options: dict[str, Any]
    arguments: tuple[str, ...]


class Constructed(msgspec.Struct, frozen=True):
    """An instance's options in force, the plain attributes of its contract, what it exports and, where its kind has hooks,
    implements.
    """

    options: dict[str, Any]
    attributes: dict[str, Any]
    exports: dict[str, str]
    hooks: dict[str, Hook] = {}


class Host(Protocol):
    """What the daemon asks of the process itself."""

    async def load(self, path: list[str], start: bytes) -> Registration:
        """Import the plugin; `start` is a pickled `Start`. Raises LoadError."""

    async def check(self, section: bytes) -> None:
        """Check a pickled section of the config. Raises InvalidArgument."""

    async def construct(self) -> Constructed:
        """Make the instance. Raises LoadError, PluginSkipped, InvalidArgument."""

    async def alive(self) -> None:
        """Return once the plugin's loop has turned."""

    async def stop(self) -> None:
        """End the instance; raises what it raises."""


def contract_of(kind: Kind) -> Mapping[str, Method]:
    """How the methods of a kind's interface, or the hooks that its instances implement, cross."""
    if kind.specs:
        return {**methods_of(CoreHooks), **methods_of(load_attribute(kind.specs))}
    return methods_of(load_attribute(kind.interface))


def attributes_of(kind: Kind) -> Mapping[str, Any]:
    """The types of a contract's plain attributes."""
    return get_type_hints(load_attribute(kind.interface)) if kind.interface else {}


def _hooks_of(instance: Any) -> Iterator[tuple[str, Hook]]:
    manager = pluggy.PluginManager(PROJECT)
    for name in dir(instance):
        if (options := manager.parse_hookimpl_opts(instance, name)) is not None:
            yield name, Hook(dict(options), tuple(inspect.signature(getattr(instance, name)).parameters))


def main(fd: int) -> None:
    """Serve the daemon at the other end of socket `fd` until it closes it."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)  # not even a call that holds the interpreter outlives it
    os.set_inheritable(fd, False)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    threading.Thread(target=lambda: asyncio.run(_follow(fd, loop)), name="daemon", daemon=True).start()
    loop.run_forever()


async def _follow(fd: int, loop: asyncio.AbstractEventLoop) -> None:
    await _Host(socket.socket(fileno=fd), loop).peer.ended.wait()
    os._exit(0)


class _Host:
    """Implements `Host`, and is what the plugin sees of the registry and the event bus."""

    def __init__(self, sock: socket.socket, plugins_loop: asyncio.AbstractEventLoop) -> None:
        self.peer = Peer(sock, self._find, self._for_plugin)
        self._loop = asyncio.get_running_loop()
        self._plugins_loop = plugins_loop
        self._spawner = _Later(Spawner)
        self._start: Start
        self._plugin: Any
        self._guard: Guard

    async def load(self, path: list[str], start: bytes) -> Registration:
        sys.path[:] = path
        importlib.invalidate_caches()
        self._start = pickle.loads(start)
        logging.basicConfig(level=self._start.log_level, format=LOG_FORMAT, stream=sys.stderr)
        self._plugin = plugin = await import_plugin(self._start.found, self._start.kind, self._start.deadline)
        if plugin.tables or plugin.check:
            why = "it reads tables of the config that are checked within the daemon"
            raise LoadError("isolation", why, 'take isolation = "process" out of its section')
        return Registration(
            plugin.requires,
            plugin.forked,
            plugin.contract,
            plugin.capabilities,
            dict(plugin.exports),
            plugin.annotations,
        )

    async def construct(self) -> Constructed:
        start, plugin = self._start, self._plugin
        kind, name = start.kind, start.section.name
        config = start.section.convert(plugin.config, plugin.migrations)
        options = msgspec.to_builtins(config) | ({"version": plugin.version} if plugin.migrations else {})
        log = logging.getLogger(f"intermodal.{kind.name}.{name}")
        if notice := start.section.notice(plugin.migrations):
            log.warning("%s", notice)
        for module in plugin.forked:
            await asyncio.to_thread(self._spawner.preload, module, start.deadline)
        events, spawner, registry = _Events(self), self._spawner, _Registry(self)
        context: Context[Any] = Context(
            kind=kind.name,
            name=name,
            config=config,
            root=start.root,
            state=start.state,
            address=start.address,
            log=log,
            events=events,  # type: ignore[arg-type]
            spawner=spawner,  # type: ignore[arg-type]
            registry=registry,  # type: ignore[arg-type]
            deadline=start.limit,
        )
        instance = await construct(plugin, context, kind, start.deadline)
        if hasattr(instance, "__aenter__"):
            await self._for_plugin(instance.__aenter__())
        attributes = {name: getattr(instance, name) for name in attributes_of(kind)}
        self._guard = Guard(f"{kind.name}.{name}", instance, Pool(name, start.threads), None)
        return Constructed(options, attributes, dict(context.exports), dict(_hooks_of(instance)) if kind.specs else {})

    async def check(self, section: bytes) -> None:
        pickle.loads(section).convert(self._plugin.config, self._plugin.migrations)

    async def alive(self) -> None:
        await self._for_plugin(asyncio.sleep(0))

    async def stop(self) -> None:
        instance, close = self._guard.instance, self._start.kind.close
        if hasattr(instance, "__aexit__"):
            await self._for_plugin(instance.__aexit__(None, None, None))
        elif close:
            await asyncio.to_thread(getattr(instance, close))

    async def _find(self, target: str, name: str) -> tuple[Callable[..., Awaitable[Any]], Method]:
        if target == "itself":
            return getattr(self, name), methods_of(Host)[name]
        method = contract_of(self._start.kind)[name]
        function = getattr(self._guard, name)
        return lambda *arguments, **keywords: self._for_plugin(function(*arguments, **keywords)), method

    def _for_plugin(self, work: Coroutine[Any, Any, Any]) -> Awaitable[Any]:
        """Do it on the plugin's loop; awaited on the daemon's side."""
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._plugins_loop))

    def ask(self, target: str, name: str, method: Method, *arguments: Any, **keywords: Any) -> Any:
        """Call the daemon, from a thread or loop of the plugin's; a concurrent future."""
        return self.peer.ask(target, name, method, arguments, keywords)


class _Later:
    """Stands for an object that is made when it is first used."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        with self._lock:
            if "_made" not in vars(self):
                self._made = self._make()
        return getattr(self._made, name)


class _Events:
    """Of the event bus, `publish`: what a backend has to do with it."""

    def __init__(self, host: _Host) -> None:
        self._host = host
        self._publish = Method(EventBus.publish)

    def publish(self, namespace: str, topic: str, type_url: str, data: bytes, *, id: str = "") -> Event:
        asked = self._host.ask("events", "publish", self._publish, namespace, topic, type_url, data, id=id)
        return asked.result()  # type: ignore[no-any-return]


class _Registry:
    """Of the registry, the config and the instances whose contracts can cross."""

    def __init__(self, host: _Host) -> None:
        self._host = host
        self.config = host._start.section.config

    def instance(self, kind: str, name: str = "") -> _Remote:
        interface = self._host._start.interfaces.get(kind)
        if interface is None:
            raise FailedPrecondition(f'{kind} cannot be called from a plugin with isolation = "process": take it out')
        return _Remote(self._host, f"{kind}.{name}", methods_of(load_attribute(interface)))

    async def require(self, kind: str, name: str = "") -> _Remote:
        return self.instance(kind, name)


class _Remote:
    """Another plugin's instance, in the daemon; its methods are coroutine functions, as those of a `Guard`."""

    def __init__(self, host: _Host, target: str, methods: Mapping[str, Method]) -> None:
        self._host = host
        self._target = target
        self._methods = methods

    def __getattr__(self, name: str) -> Any:
        if name not in self._methods:
            raise AttributeError(f"{self._target} has no method {name} in its contract")

        async def call(*arguments: Any, **keywords: Any) -> Any:
            return await asyncio.wrap_future(
                self._host.ask(self._target, name, self._methods[name], *arguments, **keywords)
            )

        return call
