"""The network `cni` as the daemon has it, without a daemon; and chains of executables, run as any runtime runs them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from intermodal_core import discovery
from intermodal_core.config import load
from intermodal_core.contracts.networks import Attachment, AttachResult
from intermodal_core.events import EventBus
from intermodal_core.loading import load_attribute
from intermodal_core.registry import Registry
from intermodal_core.spawner import Spawner
from intermodal_netlink import namespaces
from intermodal_netlink.namespaces import Local

DEBIAN = Path("/usr/lib/cni")
IMOD_CNI = Path(sys.executable).parent / "imod-cni"


class Attached:
    """`networks.cni` of a registry on a loop of its own; calls on it are guarded, as in the daemon."""

    def __init__(self, registry: Registry, loop: asyncio.AbstractEventLoop, backend: Any) -> None:
        self.registry = registry
        self._loop = loop
        self._backend = backend

    def __getattr__(self, verb: str) -> Any:
        def call(*arguments: Any) -> Any:
            async def run() -> Any:
                return await getattr(self._backend, verb)(*arguments)

            return asyncio.run_coroutine_threadsafe(run(), self._loop).result(120)

        return call

    def add(self, container: str, netns: str, network: str, **keys: Any) -> AttachResult:
        """Attach a container of the namespace `test`."""
        result: AttachResult = self.attach(attachment(container, netns, network, **keys))
        return result


def attachment(container: str, netns: str, network: str, **keys: Any) -> Attachment:
    return Attachment(f"test/{container}", "test", container, network, netns, **keys)


@contextmanager
def cni_network(top: Path, config: str = "") -> Iterator[Attached]:
    """The network with its root below `top`; `config` is TOML of the daemon. It works in this thread's network namespace."""
    file = top / "config.toml"
    top.mkdir(parents=True, exist_ok=True)
    file.write_text(f"version = 1\n{config or '[networks.cni]'}\n")
    places = {"root": str(top / "root"), "state": str(top / "state"), "address": str(top / "sock")}
    spawner = Spawner()
    events = EventBus(top / "events")
    found = discovery.find()
    kinds = [load_attribute(point.value) for point in found if point.group == "kinds"]
    registry = Registry(found, kinds, load(file, places), events, spawner, str(top / "sock"))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="loop")
    thread.start()
    try:
        backend = asyncio.run_coroutine_threadsafe(registry.require("networks", "cni"), loop).result(60)
        yield Attached(registry, loop, backend)
    finally:
        asyncio.run_coroutine_threadsafe(registry.stop(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        events.close()
        spawner.close()


@contextmanager
def namespace(directory: Path, name: str) -> Iterator[str]:
    """A network namespace, kept at a path."""
    directory.mkdir(exist_ok=True)
    path = str(directory / name)
    Local().make(path)
    try:
        yield path
    finally:
        namespaces.remove(path)


@dataclass(frozen=True)
class Ended:
    """How an executable ended: its status and what it printed."""

    status: int
    printed: Any
    stderr: str

    @property
    def code(self) -> int:
        return int(self.printed["code"]) if isinstance(self.printed, dict) and "code" in self.printed else 0


def execute(
    type: str,
    verb: str,
    config: Any,
    path: Sequence[Path],
    *,
    container: str = "c",
    netns: str = "",
    interface: str = "eth0",
    **variables: str,
) -> Ended:
    """One call of an executable, as the specification says."""
    file = next((folder / type for folder in path if (folder / type).exists()), Path(type))
    env = {**os.environ, "CNI_COMMAND": verb, "CNI_PATH": ":".join(map(str, path))}
    env |= {"CNI_CONTAINERID": container, "CNI_NETNS": netns, "CNI_IFNAME": interface, **variables}
    text = config if isinstance(config, str) else json.dumps(config)
    done = subprocess.run(
        [file],
        input=text,
        env={k: v for k, v in env.items() if v},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    try:
        printed = json.loads(done.stdout) if done.stdout.strip() else None
    except ValueError:
        printed = done.stdout
    return Ended(done.returncode, printed, done.stderr)


class Chain:
    """A stock runtime: each plugin of a list executed in turn, with the result of the one before."""

    def __init__(self, network: dict[str, Any], path: Sequence[Path], **capabilities: Any) -> None:
        self._network = network
        self._path = path
        self._capabilities = capabilities

    def asking(self, **capabilities: Any) -> Chain:
        """The same chain for a container that asks for something."""
        return Chain(self._network, self._path, **capabilities)

    def _config(self, plugin: dict[str, Any], previous: Any) -> dict[str, Any]:
        config = {key: value for key, value in plugin.items() if key != "capabilities"}
        config |= {"name": self._network["name"], "cniVersion": self._network["cniVersion"]}
        wanted = {key: value for key, value in self._capabilities.items() if plugin.get("capabilities", {}).get(key)}
        if wanted:
            config["runtimeConfig"] = wanted
        if previous is not None:
            config["prevResult"] = previous
        return config

    def add(self, **place: str) -> Any:
        """ADD of all; the last result. Raises AssertionError with what one of them said."""
        result = None
        for plugin in self._network["plugins"]:
            done = execute(plugin["type"], "ADD", self._config(plugin, result), self._path, **place)
            assert done.status == 0, (plugin["type"], done)
            result = done.printed
        return result

    def each(self, verb: str, result: Any, **place: str) -> None:
        """CHECK in order, or DEL in reverse."""
        plugins = self._network["plugins"]
        for plugin in reversed(plugins) if verb == "DEL" else plugins:
            done = execute(plugin["type"], verb, self._config(plugin, result), self._path, **place)
            assert done.status == 0, (plugin["type"], verb, done)


def linked(directory: Path, *types: str) -> Path:
    """A CNI bin directory in which these types are ours."""
    directory.mkdir(exist_ok=True)
    for type in types:
        (directory / type).symlink_to(IMOD_CNI)
    return directory
