"""The daemon never forks: not by a plugin's mistake either; and a thousand children come and go under calls."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from intermodal import Client

from tests.harness.daemon import PrivateDaemon

PLUGIN = '''
import os, subprocess
from concurrent.futures import ThreadPoolExecutor
from intermodal_core.errors import IntermodalError
from intermodal_core.plugin import Plugin

class Forker:
    """A service that does at its start what a plugin may do."""
    def __init__(self, context):
        self.context = context
    async def __aenter__(self):
        said = []
        for fork in (os.fork, os.forkpty):
            try:
                fork()
            except IntermodalError as error:
                said.append(str(error))
        said.append(subprocess.run(["/bin/echo", "executed"], capture_output=True, text=True).stdout)
        def run(number):
            return self.context.spawner.run(["/bin/echo", str(number)], timeout=60).stdout.decode().strip()
        def children():
            with ThreadPoolExecutor(8) as threads:
                done = list(threads.map(run, range(COUNT)))
            assert done == [str(number) for number in range(COUNT)]
            (self.context.root_dir() / "done").write_text("")
        import threading
        threading.Thread(target=children, daemon=True).start()
        (self.context.root_dir() / "said").write_text("\\n".join(said))
        return self
    async def __aexit__(self, *_): pass

plugin = Plugin(factory=Forker)
'''


def install(site: Path, count: int) -> None:
    info = site / "forks-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "forks_sample.py").write_text(PLUGIN.replace("COUNT", str(count)))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: forks\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[intermodal.services]\nforker = forks_sample:plugin\n")


def test_a_plugin_that_forks_is_refused(tmp_path: Path) -> None:
    install(tmp_path / "site", 1)
    with PrivateDaemon(start=False) as daemon:
        daemon.start({"PYTHONPATH": str(tmp_path / "site")})
        first, second, third = (daemon.root / "services/forker/said").read_text().splitlines()
        assert first.startswith(
            "os.fork in the daemon, whose threads hold locks: start processes through context.spawner"
        )
        assert second.startswith("os.forkpty in the daemon")
        assert third == "executed", "to execute is no fork: Python does it by vfork"


@pytest.mark.slow
def test_a_thousand_children_under_calls(tmp_path: Path) -> None:
    """With a watchdog: neither a child nor a call may hang."""
    install(tmp_path / "site", 1000)
    with PrivateDaemon(start=False) as daemon:
        daemon.start({"PYTHONPATH": str(tmp_path / "site")})
        done = daemon.root / "services/forker/done"
        counts = [0, 0]
        errors: list[BaseException] = []

        def call(number: int) -> None:
            try:
                with Client(daemon.address, timeout=20) as client:
                    while not done.exists():
                        client.version()
                        counts[number] += 1
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=call, args=(number,), daemon=True) for number in range(2)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 120
        for thread in threads:
            thread.join(max(0.1, deadline - time.monotonic()))
        assert errors == []
        assert not any(thread.is_alive() for thread in threads), f"hung after {counts} calls"
        assert done.exists()
        assert min(counts) > 50
