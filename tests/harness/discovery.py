"""Many installed plugins, and what the start of a daemon makes of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

__all__ = ["install", "probe"]

#: Finds and examines what is installed, as the daemon does at its start; CPU seconds, and the samples' modules that were imported.
_PROBE = """
import asyncio, json, sys, time
from pathlib import Path
base = Path(sys.argv[1])
from intermodal_core import discovery
from intermodal_core.config import load
from intermodal_core.daemon import Daemon
from intermodal_core.events import EventBus
from intermodal_core.registry import Registry

async def main():
    config = load(base / "config.toml", {"root": str(base / "root"), "state": str(base / "state")})
    bus = EventBus(base / "events")
    began = time.process_time()
    found, kinds = Daemon(config)._discover()
    registry = Registry(found, kinds, config, bus, None, "")
    config.check_names(registry.names())
    seconds = time.process_time() - began
    for record in registry.records("event_sinks"):
        if record.state == "available" and record.name.startswith("sample"):
            await registry.load(record)
    states = {record.name: record.state for record in registry.records("event_sinks")}
    bus.close()
    return seconds, states

seconds, states = asyncio.run(main())
imported = sorted(name for name in sys.modules if name.startswith("sample_plugin_"))
print(json.dumps({"seconds": seconds, "imported": imported, "states": states}))
"""

_PLUGIN = """from intermodal_core.plugin import Plugin
class Sink:
    filters = ()
    def deliver(self, events): ...
    def lost(self, first, last): ...
    def close(self): ...
plugin = Plugin(factory=lambda context: Sink())
"""


def install(directory: Path, count: int, used: int) -> None:
    """Install plugins, one a distribution as pip leaves it, and write a config that uses only some of them."""
    lines = ["version = 1"]
    for number in range(count):
        name = f"sample_plugin_{number}"
        (directory / f"{name}.py").write_text(_PLUGIN)
        info = directory / f"{name}-1.0.dist-info"
        info.mkdir()
        header = (
            f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.0\nRequires-Dist: intermodal-core\n"
        )
        (info / "METADATA").write_text(header + "\n" + "What it is for.\n" * 60)
        (info / "entry_points.txt").write_text(f"[intermodal.event_sinks]\nsample{number} = {name}:plugin\n")
        (info / "RECORD").write_text(f"{name}.py,,\n")
        if number >= used:
            lines += [f"[event_sinks.sample{number}]", "enabled = false"]
    (directory / "config.toml").write_text("\n".join(lines) + "\n")


def probe(directory: Path) -> dict[str, object]:
    """What the daemon's start would come to in a new process: `seconds` of CPU, modules `imported`, `states` by name."""
    command = [sys.executable, "-c", _PROBE, str(directory)]
    done = subprocess.run(
        command, env={"PYTHONPATH": str(directory), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found
