"""A daemon whose backends all have processes of their own: containers do not see the difference, nor that one dies."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.harness.daemon import PrivateDaemon
from tests.harness.images import Built
from tests.harness.waiting import until

BACKENDS = ("content.local", "snapshotters.native", "differs.tar", "networks.none", "runtimes.runc")
RUN = ("--net", "none", "--snapshotter", "native", "busybox")


@pytest.fixture
def apart(busybox: Built) -> Iterator[PrivateDaemon]:
    config = "".join(f'[{backend}]\nisolation = "process"\n' for backend in BACKENDS)
    with PrivateDaemon(config) as daemon:
        daemon.imod("images", "import", "--snapshotter", "native", str(busybox.path), check=True)
        yield daemon


def process(daemon: PrivateDaemon, plugin: str) -> Any:
    return json.loads(daemon.imod("plugins", "inspect", plugin, check=True).stdout)["process"]


def again(daemon: PrivateDaemon, plugin: str) -> bool:
    return bool(process(daemon, plugin)["restarts"] == 1 and process(daemon, plugin)["pid"])


def taken_up(daemon: PrivateDaemon) -> bool:
    return daemon.imod("exec", "c", "true").returncode == 0


def test_everything_apart(apart: PrivateDaemon) -> None:
    apart.imod("run", "-d", "--name", "c", *RUN, "sleep", "600", check=True)
    assert apart.imod("exec", "c", "echo", "within", check=True).stdout == "within\n"
    pids = {backend: process(apart, backend)["pid"] for backend in BACKENDS}
    assert len(set(pids.values()) - {0, apart.pid}) == len(BACKENDS)
    for backend, pid in pids.items():
        os.kill(pid, signal.SIGKILL if backend != "content.local" else signal.SIGTERM)
    for backend in BACKENDS:
        until(partial(again, apart, backend), 30)
    # What was committed is there, what ran runs.
    until(partial(taken_up, apart), 20)
    assert apart.imod("exec", "c", "echo", "still", check=True).stdout == "still\n"
    assert apart.imod("run", "--rm", *RUN, "echo", "again", check=True).stdout == "again\n"
    assert "ended by SIGKILL" in process(apart, "snapshotters.native")["last_error"]
    assert "its process was ended by SIGKILL" in apart.imod("plugins", "ls", check=True).stdout
    apart.imod("rm", "-f", "c", check=True)


def test_the_daemon_comes_back_to_them(apart: PrivateDaemon) -> None:
    """Killed with everything in processes: the next one starts them anew, and none of the old ones is in its way."""
    apart.imod("run", "-d", "--name", "c", *RUN, "sleep", "600", check=True)
    apart.kill9()
    apart.start()
    assert apart.imod("exec", "c", "echo", "still", check=True).stdout == "still\n"
    assert apart.imod("run", "--rm", *RUN, "echo", "again", check=True).stdout == "again\n"
    apart.imod("rm", "-f", "c", check=True)
