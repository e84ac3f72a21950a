"""The daemon is killed at every step of what it does with networks; the next one owes nobody anything.

`world.settled` compares attachments with namespaces, records of chains, leases, links and rules.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest
from intermodal_core.syscalls import MNT_DETACH, umount

from tests.daemon.test_crash import (
    PATIENT,
    SECONDS,
    Scenario,
    absent_or_whole,
    every_step,
    gone,
    imod,
    killed_at,
    listening,
    mortal,
    removed,
    stopping,
)
from tests.harness.images import Built
from tests.harness.mortal import Mortal
from tests.harness.waiting import until
from tests.harness.world import records, settled

PORT = "127.0.0.1:18080:80"


def runs(daemon: Mortal, k: int) -> None:
    daemon.imod("run", "-d", "--name", "c", "-p", PORT, "busybox", *PATIENT, check=True)
    listening(daemon)


def two_networks(daemon: Mortal, k: int) -> None:
    if "second" not in daemon.imod("network", "ls", "-q", check=True).stdout.split():
        daemon.imod("network", "create", "second", check=True)
    runs(daemon, k)


def connected(daemon: Mortal, k: int) -> None:
    """It runs on, in the second network or not."""
    daemon.imod("exec", "c", "true", check=True)
    daemon.imod("rm", "-f", "c", check=True)


def left(daemon: Mortal, k: int) -> None:
    stopping(daemon, k)


RUN = imod("run", "-d", "--name", "c", "-p", PORT, "busybox", *PATIENT)
SCENARIOS = [
    Scenario("run", RUN, absent_or_whole),
    Scenario("run-rm", imod("run", "--rm", "-p", PORT, "busybox", "true"), gone),
    Scenario("stop", imod("stop", "c"), left, runs),
    Scenario("rm", imod("rm", "-f", "c"), removed, runs),
    Scenario("connect", imod("network", "connect", "second", "c"), connected, two_networks),
]


@pytest.mark.parametrize("name", ["run", "rm"])
def test_killed_at_some_steps(busybox: Built, name: str) -> None:
    """A few of those below, for every day."""
    (scenario,) = (each for each in SCENARIOS if each.name == name)
    with mortal(busybox) as daemon:
        for k in (6, 13):
            killed_at(daemon, scenario, k)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_killed_at_every_step(busybox: Built, scenario: Scenario) -> None:
    steps = every_step(scenario, busybox, fine=False)
    assert any(step.startswith(("netlink.", "networks.", "nftables.")) for step in steps), steps


@pytest.mark.soak
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_killed_at_every_change_of_the_file_system(busybox: Built, scenario: Scenario) -> None:
    assert every_step(scenario, busybox, fine=True)


@pytest.mark.slow
def test_a_reboot(busybox: Built) -> None:
    """All that a reboot ends is gone: processes, namespaces, cgroups, the state directory. What is kept is put in order."""
    with mortal(busybox) as daemon:
        runs(daemon, 0)
        (address,) = addresses(daemon)
        daemon.imod("kill", "c", check=True)
        until(lambda: records(daemon, "attachments") == [], SECONDS)
        daemon.imod("start", "c", check=True)
        assert addresses(daemon) == [address], "a container gets its own address back"
        daemon.kill9()
        for pid, _ in daemon.processes():
            with contextlib.suppress(ProcessLookupError):  # it went with another
                os.kill(pid, signal.SIGKILL)
        for point in reversed(daemon._mounts()):
            umount(point, MNT_DETACH)
        for cgroup in daemon._cgroups():
            until(partial(_removed, cgroup), SECONDS)
        shutil.rmtree(daemon.state)
        daemon.start()
        settled(daemon)
        assert records(daemon, "attachments") == []
        daemon.imod("start", "c", check=True)
        assert addresses(daemon) == [address]
        daemon.imod("rm", "-f", "c", check=True)
        settled(daemon)


def _removed(cgroup: Path) -> bool:
    """Remove it, once the last of those that were killed in it has left."""
    try:
        cgroup.rmdir()
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def addresses(daemon: Mortal) -> list[str]:
    return [address for row in records(daemon, "attachments") for address in row["addresses"]]
