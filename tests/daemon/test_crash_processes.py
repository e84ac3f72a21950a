"""Processes other than the daemon are killed, or the daemon while containers come and go."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest
from intermodal_api.containerd.services import tasks_pb2
from intermodal_api.containerd.types import task_pb2

from tests.harness.api import Api
from tests.harness.daemon import PrivateDaemon, children_of
from tests.harness.waiting import until
from tests.harness.world import settled

IMAGE = "docker.io/library/busybox:latest"
SECONDS = 20


def inspect(daemon: PrivateDaemon, name: str) -> dict[str, Any]:
    (found,) = json.loads(daemon.imod("inspect", name, check=True).stdout)
    return dict(found)


def shim_of(daemon: PrivateDaemon, name: str) -> int:
    bundle = daemon.state / "managers/tasks/bundles" / daemon.namespace / name
    return int(json.loads((bundle / "shim.json").read_text())["pid"])


def start(daemon: PrivateDaemon, name: str, *command: str) -> None:
    daemon.imod("run", "-d", "--name", name, "--net", "none", "busybox", *command, check=True)


def spawner_of(daemon: PrivateDaemon) -> int:
    """The daemon's one child; 0 while there is none."""
    return next(iter(children_of(daemon.pid)), 0)


def told(daemon: PrivateDaemon) -> dict[str, list[tuple[str, int]]]:
    """Topics and exit statuses of all tasks' events up to now, by container."""
    label = secrets.token_hex(8)
    daemon.ctr("images", "label", IMAGE, f"now={label}", check=True)
    command = daemon.imod_command("events", "--cursor", "0", "-o", "json")
    found: dict[str, list[tuple[str, int]]] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdout is not None
        for line in listener.stdout:
            event = json.loads(line)
            if label in line:
                listener.terminate()
            elif event["topic"].startswith("/tasks/"):
                fields = event["fields"]
                if "exec_id" in fields or fields.get("id", fields["container_id"]) != fields["container_id"]:
                    continue  # of a process that was added
                found.setdefault(fields["container_id"], []).append((event["topic"], fields.get("exit_status", 0)))
    return found


def life(status: int) -> list[tuple[str, int]]:
    """The events of a task that ends with `status`."""
    return [("/tasks/create", 0), ("/tasks/start", 0), ("/tasks/exit", status), ("/tasks/delete", status)]


@pytest.mark.parametrize("victim", ["shim", "init"])
def test_a_killed_process_is_an_end_with_137(busybox_daemon: PrivateDaemon, victim: str) -> None:
    """It is recorded and told in order, nothing is left of it, and the name is good for another start."""
    daemon = busybox_daemon
    start(daemon, "c", "sleep", "1000")
    pid = shim_of(daemon, "c") if victim == "shim" else inspect(daemon, "c")["pid"]
    waiting = subprocess.Popen(daemon.imod_command("wait", "c"), stdout=subprocess.PIPE, text=True)
    os.kill(pid, signal.SIGKILL)
    assert waiting.communicate(timeout=SECONDS)[0] == "137\n"
    until(lambda: inspect(daemon, "c")["status"] == "stopped", SECONDS)
    assert inspect(daemon, "c")["exit_code"] == 137
    settled(daemon)
    daemon.imod("start", "c", check=True)
    assert daemon.imod("exec", "c", "echo", "again", check=True).stdout == "again\n"
    daemon.imod("rm", "-f", "c", check=True)
    assert told(daemon) == {"c": life(137) * 2}


def test_a_killed_shim_of_a_client_that_starts_itself(busybox_daemon: PrivateDaemon) -> None:
    """The client's wait ends, and its delete gives the status and removes what is left."""
    daemon = busybox_daemon
    daemon.ctr("run", "-d", IMAGE, "c", "sleep", "1000", check=True)
    with Api(daemon.address, daemon.namespace) as api:
        killer = threading.Timer(0.2, os.kill, (shim_of(daemon, "c"), signal.SIGKILL))
        killer.start()
        assert api.call(tasks_pb2, "Wait", container_id="c").exit_status == 137
        assert api.call(tasks_pb2, "Delete", container_id="c").exit_status == 137
    daemon.ctr("containers", "rm", "c", check=True)
    settled(daemon, client=True)


def test_the_spawner_is_killed_while_containers_start(busybox_daemon: PrivateDaemon) -> None:
    """A start may fail for it, with a sentence; it leaves nothing, and what has started runs on."""
    daemon = busybox_daemon
    stop = threading.Event()
    killed: set[int] = set()

    def kill() -> None:
        while not stop.wait(0.8):
            spawner = spawner_of(daemon)
            if spawner:
                os.kill(spawner, signal.SIGKILL)
                killed.add(spawner)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        started: list[str] = []
        failed: list[str] = []
        for number in range(20):
            words = ("run", "-d", "--name", f"c{number}", "--net", "none", "busybox", "sleep", "1000")
            done = daemon.imod(*words)
            (failed if done.returncode else started).append(f"c{number}")
            assert done.returncode in (0, 125)
            assert done.stderr.count("\n") == (done.returncode == 125), done.stderr
    finally:
        stop.set()
        killer.join(SECONDS)
    assert killed
    daemon.restart()  # with it goes what forks the shims, which no dead spawner takes along
    settled(daemon)
    assert sorted(daemon.imod("ps", "-q", check=True).stdout.split()) == sorted(started)
    for name in failed:
        start(daemon, name, "sleep", "1000")
    for name in (*started, *failed):
        assert daemon.imod("exec", name, "echo", "well", check=True).stdout == "well\n"
        daemon.imod("rm", "-f", name, check=True)
    settled(daemon)


def test_ten_containers_outlive_the_daemon(busybox_daemon: PrivateDaemon) -> None:
    """Some end while no daemon is there, some right as it dies: each has its own status, the others run on."""
    daemon = busybox_daemon
    for number in range(10):
        start(
            daemon, f"c{number}", "sh", "-c", f"trap 'exit {number + 20}' TERM; echo up; while :; do sleep 0.02; done"
        )
        until(lambda name=f"c{number}": daemon.imod("logs", name, check=True).stdout == "up\n", SECONDS)  # type: ignore[misc]
    pids = [inspect(daemon, f"c{number}")["pid"] for number in range(10)]
    for number in (0, 1):
        os.kill(pids[number], signal.SIGTERM)  # nobody waits until the daemon knows
    daemon.kill9()
    for number in (2, 3, 4):
        os.kill(pids[number], signal.SIGTERM)
    os.kill(pids[5], signal.SIGKILL)
    until(lambda: not any(Path(f"/proc/{pids[number]}").exists() for number in range(6)), SECONDS)
    daemon.start()
    expected = [20, 21, 22, 23, 24, 137]
    for number, status in enumerate(expected):
        until(lambda name=f"c{number}": inspect(daemon, name)["status"] == "stopped", SECONDS)  # type: ignore[misc]
        assert inspect(daemon, f"c{number}")["exit_code"] == status
    for number in range(6, 10):
        assert inspect(daemon, f"c{number}")["pid"] == pids[number]
        assert daemon.imod("exec", f"c{number}", "echo", "well", check=True).stdout == "well\n"
        daemon.imod("stop", f"c{number}", check=True)
        assert inspect(daemon, f"c{number}")["exit_code"] == number + 20
    settled(daemon)
    statuses = [*expected, 26, 27, 28, 29]
    assert told(daemon) == {f"c{number}": life(status) for number, status in enumerate(statuses)}
    daemon.imod("rm", *(f"c{number}" for number in range(10)), check=True)
    settled(daemon)


def test_a_restart_touches_no_container(busybox_daemon: PrivateDaemon) -> None:
    """Of a daemon that is stopped in good order nothing is cleaned up that lives."""
    daemon = busybox_daemon
    for number in range(6):
        start(daemon, f"c{number}", "sleep", "1000")
    pids = [inspect(daemon, f"c{number}")["pid"] for number in range(6)]
    for _ in range(4):
        daemon.restart()
        assert [inspect(daemon, f"c{number}")["pid"] for number in range(6)] == pids
    assert "is removed" not in daemon.log.read_text()
    daemon.imod("rm", "-f", *(f"c{number}" for number in range(6)), check=True)
    settled(daemon)


def test_ends_of_added_processes_are_known_to_the_next_daemon(busybox_daemon: PrivateDaemon) -> None:
    """One that ended while no daemon was there, one that runs on, one that is not started yet."""
    daemon = busybox_daemon
    start(daemon, "c", "sleep", "1000")
    script = "until [ -e /go ]; do sleep 0.02; done; exit 3"
    with Api(daemon.address, daemon.namespace) as api:
        for name, command in (
            ("ends", script),
            ("runs", "trap 'exit 5' TERM; while :; do sleep 0.02; done"),
            ("waits", "exit 6"),
        ):
            process = json.dumps(
                {"args": ["sh", "-c", command], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}
            )
            request = tasks_pb2.ExecProcessRequest(container_id="c", exec_id=name)
            request.spec.type_url = "types.containerd.io/opencontainers/runtime-spec/1/Process"
            request.spec.value = process.encode()
            api.send(tasks_pb2, "Exec", [request])
            if name != "waits":
                api.call(tasks_pb2, "Start", container_id="c", exec_id=name)
        ends = api.call(tasks_pb2, "Get", container_id="c", exec_id="ends").process.pid
    daemon.kill9()
    Path(f"/proc/{ends}/root/go").touch()
    until(lambda: not Path(f"/proc/{ends}").exists(), SECONDS)
    daemon.start()
    with Api(daemon.address, daemon.namespace) as api:
        assert api.call(tasks_pb2, "Wait", container_id="c", exec_id="ends").exit_status == 3
        ended = api.call(tasks_pb2, "Get", container_id="c", exec_id="ends").process
        assert (ended.pid, ended.exit_status, ended.status) == (ends, 3, task_pb2.Status.STOPPED)
        api.call(tasks_pb2, "Kill", container_id="c", exec_id="runs", signal=signal.SIGTERM)
        assert api.call(tasks_pb2, "Wait", container_id="c", exec_id="runs").exit_status == 5
        api.call(tasks_pb2, "Start", container_id="c", exec_id="waits")
        assert api.call(tasks_pb2, "Wait", container_id="c", exec_id="waits").exit_status == 6
        for name, status in (("ends", 3), ("runs", 5), ("waits", 6)):
            deleted = api.call(tasks_pb2, "DeleteProcess", container_id="c", exec_id=name)
            assert deleted.exit_status == status
        with pytest.raises(grpc.RpcError) as caught:
            api.call(tasks_pb2, "Wait", container_id="c", exec_id="ends")
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    daemon.imod("rm", "-f", "c", check=True)
    settled(daemon)


def test_an_exec_over_the_daemons_death(busybox_daemon: PrivateDaemon) -> None:
    """The container is as well as before; a process added to it is taken along when it ends."""
    daemon = busybox_daemon
    start(daemon, "c", "sleep", "1000")
    process = subprocess.Popen(
        daemon.imod_command("exec", "c", "sh", "-c", "echo in; sleep 500"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"in\n"
    daemon.kill9()
    assert process.wait(SECONDS) == 125
    assert process.stderr is not None
    assert process.stderr.readline().startswith(b"imod: ")
    daemon.start()
    assert daemon.imod("exec", "c", "sh", "-c", "exit 3").returncode == 3
    daemon.imod("rm", "-f", "c", check=True)
    assert process.stdout.read() == b"", "with the container all that was added to it has ended"
    settled(daemon)
    process.stdout.close()
    process.stderr.close()
