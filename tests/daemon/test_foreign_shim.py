"""Containers under a shim that is not ours, through the daemon: by ctr and by imod, named by its path alone."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.daemon import PrivateDaemon
from tests.harness.waiting import until

SHIM = shutil.which("containerd-shim-runc-v2") or ""
IMAGE = "docker.io/library/busybox:latest"

pytestmark = pytest.mark.skipif(not SHIM, reason="containerd's shim is not installed")


@pytest.fixture
def daemon(busybox_daemon: PrivateDaemon) -> Iterator[PrivateDaemon]:
    yield busybox_daemon
    for name in busybox_daemon.imod("ps", "-a", "-q", check=True).stdout.split():
        busybox_daemon.imod("rm", "-f", name, check=True)


def inspected(daemon: PrivateDaemon, name: str) -> dict[str, Any]:
    (shown,) = json.loads(daemon.imod("inspect", name, check=True).stdout)
    return dict(shown)


def test_ctr_runs_a_container(daemon: PrivateDaemon) -> None:
    done = daemon.ctr("run", "--rm", "--runtime", SHIM, IMAGE, "one", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.returncode, done.stdout) == (3, "out\n")
    assert "err" in done.stderr


def test_imod_runs_execs_logs_and_stops(daemon: PrivateDaemon) -> None:
    script = "echo begun; trap 'exit 4' TERM; while :; do sleep 0.1; done"
    daemon.imod("run", "-d", "--name", "two", "--runtime", SHIM, IMAGE, "sh", "-c", script, check=True)
    until(lambda: daemon.imod("logs", "two", check=True).stdout == "begun\n")
    done = daemon.imod("exec", "two", "sh", "-c", "echo hello; exit 5")
    assert (done.returncode, done.stdout) == (5, "hello\n")
    shown = inspected(daemon, "two")
    assert shown["choice"]["binary"] == SHIM
    assert shown["choice"]["plugin"] == "shimv2"
    assert daemon.imod("stop", "two").returncode == 0
    assert inspected(daemon, "two")["exit_code"] == 4


def test_imod_feeds_its_input(daemon: PrivateDaemon) -> None:
    done = daemon.imod("run", "-i", "--rm", "--runtime", SHIM, IMAGE, "cat", input="one\ntwo\n")
    assert (done.returncode, done.stdout) == (0, "one\ntwo\n")


def test_output_goes_on_without_a_daemon(daemon: PrivateDaemon) -> None:
    """No line is lost, and the next daemon takes it up."""
    script = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done"
    daemon.imod("run", "-d", "--name", "three", "--runtime", SHIM, IMAGE, "sh", "-c", script, check=True)
    log = next(Path(daemon.base).glob("root/managers/tasks/logs/*/three/container.log"))
    until(lambda: log.stat().st_size > 1000)
    daemon.kill9()
    size = log.stat().st_size
    until(lambda: log.stat().st_size > 2 * size)
    daemon.restart()
    numbers = [int(line) for line in daemon.imod("logs", "three", check=True).stdout.split()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert daemon.imod("kill", "three").returncode == 0
    until(lambda: inspected(daemon, "three")["exit_code"] == 137)


def test_each_event_is_told_once(daemon: PrivateDaemon) -> None:
    daemon.imod("run", "--rm", "--name", "four", "--runtime", SHIM, IMAGE, "true", check=True)
    words = ["events", "--cursor", "0", "--filter", "topic~=^/tasks/", "-o", "json"]
    topics = []
    with subprocess.Popen(daemon.imod_command(*words), stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        for line in following.stdout:
            topics.append(json.loads(line)["topic"])
            if topics[-1] == "/tasks/delete":
                break
        following.kill()
    assert topics == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
