"""Hundreds of plugins installed, of which a few are in use: what that costs, and that nothing of the others is imported."""

from __future__ import annotations

import asyncio
import importlib.metadata
import sys
import time
from pathlib import Path

import pytest
from intermodal_core import config, discovery
from intermodal_core.events import EventBus
from intermodal_core.kinds import Kind
from intermodal_core.registry import Registry
from intermodal_core.spawner import Spawner

COUNT = 200
USED = ("plugin003", "plugin077", "plugin142")
BUDGET = 0.25e-3


def install(directory: Path) -> None:
    for number in range(COUNT):
        name = f"plugin{number:03}"
        (directory / f"many_{name}.py").write_text(
            "from intermodal_core.plugin import Plugin\nplugin = Plugin(factory=lambda context: object())\n"
        )
        info = directory / f"many_{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: many-{name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[intermodal.backends]\n{name} = many_{name}:plugin\n")


def test_discovery_of_two_hundred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    site.mkdir()
    install(site)
    monkeypatch.syspath_prepend(str(site))
    file = tmp_path / "config.toml"
    off = "".join(
        f"[backends.plugin{number:03}]\nenabled = false\n"
        for number in range(COUNT)
        if f"plugin{number:03}" not in USED
    )
    file.write_text(f"version = 1\n{off}")
    kinds = [Kind("backends", guarded=False)]
    costs = []

    async def start() -> None:
        loaded = config.load(file, {"root": str(tmp_path / "root"), "state": str(tmp_path / "state")})
        bus, spawner = EventBus(tmp_path / "events"), Spawner()
        importlib.invalidate_caches()
        began = time.process_time()
        found = discovery.find(importlib.metadata.distributions(path=[str(site)]))
        registry = Registry(found, kinds, loaded, bus, spawner, "/nowhere.sock")
        costs.append(time.process_time() - began)
        try:
            await registry.start()
            for name in USED:
                await registry.require("backends", name)
            states = [record.state for record in registry.records()]
            assert (states.count("ready"), states.count("disabled")) == (len(USED), COUNT - len(USED))
        finally:
            await registry.stop()
            bus.close()
            spawner.close()

    for _ in range(5):
        asyncio.run(start())
    imported = {name.removeprefix("many_") for name in sys.modules if name.startswith("many_")}
    assert imported == set(USED)
    assert min(costs) / COUNT <= BUDGET, f"{min(costs) / COUNT * 1e3:.3f} ms of CPU for each"
