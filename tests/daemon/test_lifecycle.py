"""imod on containers that are there: counters, limits, restarts, checkpoints, another runtime."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.daemon import PrivateDaemon
from tests.harness.images import Built, busybox_layout
from tests.harness.waiting import until

IMAGE = "docker.io/library/busybox:latest"
COUNT = "trap 'exit 0' TERM; i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"

needs_gvisor = pytest.mark.skipif(shutil.which("runsc") is None, reason="gVisor's runsc is not installed")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateDaemon]:
    archive = busybox_layout(tmp_path_factory.mktemp("image") / "busybox.tar")
    with PrivateDaemon() as private:
        private.imod("images", "import", str(archive.path), check=True)
        yield private


@pytest.fixture(autouse=True)
def no_containers(daemon: PrivateDaemon) -> Iterator[None]:
    yield
    names = daemon.imod("ps", "-a", "-q", check=True).stdout.split()
    if names:
        daemon.imod("rm", "-f", *names, check=True)


def inspected(daemon: PrivateDaemon, name: str) -> dict[str, Any]:
    (shown,) = json.loads(daemon.imod("inspect", name, check=True).stdout)
    return dict(shown)


def numbers(daemon: PrivateDaemon, name: str) -> list[int]:
    return [int(line) for line in daemon.imod("logs", name, check=True).stdout.split()]


def started(daemon: PrivateDaemon, name: str, *words: str, script: str = COUNT) -> None:
    daemon.imod("run", "-d", "--name", name, *words, IMAGE, "sh", "-c", script, check=True)


def counted(daemon: PrivateDaemon, name: str) -> dict[str, Any]:
    return dict(json.loads(daemon.imod("stats", "--no-stream", "-o", "json", name, check=True).stdout))


def test_stats_and_update(daemon: PrivateDaemon) -> None:
    started(daemon, "a")
    before = counted(daemon, "a")
    assert (before["runtime"], before["source"]) == ("runc", "cgroup")
    assert "memory_limit" not in before
    daemon.imod("update", "a", "--memory", "64m", "--cpus", "0.5", "--pids", "50", check=True)
    now = counted(daemon, "a")
    assert (now["memory_limit"], now["pids_limit"]) == (64 << 20, 50)
    daemon.imod("restart", "-t", "1", "a", check=True)
    assert counted(daemon, "a")["memory_limit"] == 64 << 20  # it is the container's now
    table = daemon.imod("stats", "--no-stream", check=True).stdout.splitlines()
    assert table[0].split()[:3] == ["CONTAINER", "RUNTIME", "CPU"]
    assert table[1].split()[:2] == ["a", "runc"]


def test_an_update_that_changes_nothing_is_told(daemon: PrivateDaemon) -> None:
    started(daemon, "a")
    done = daemon.imod("update", "a")
    assert done.returncode == 125
    assert "--memory" in done.stderr


def test_top(daemon: PrivateDaemon) -> None:
    started(daemon, "a", script="sleep 1001 & exec sleep 1002")
    until(lambda: "sleep 1001" in daemon.imod("top", "a", check=True).stdout)
    rows = daemon.imod("top", "a", check=True).stdout.splitlines()
    assert {row.split(maxsplit=6)[6] for row in rows[1:]} == {"sleep 1001", "sleep 1002"}
    assert all(Path(f"/proc/{row.split()[0]}").exists() for row in rows[1:])


def test_attach_shows_what_comes_and_the_log_has_all(daemon: PrivateDaemon) -> None:
    started(daemon, "a")
    with subprocess.Popen(daemon.imod_command("attach", "a"), stdout=subprocess.PIPE, text=True) as attached:
        assert attached.stdout is not None
        seen = [int(attached.stdout.readline()) for _ in range(5)]
        daemon.imod("kill", "a", check=True)
        seen += [int(line) for line in attached.stdout]
        assert attached.wait(10) == 137
    assert seen == list(range(seen[0], seen[0] + len(seen)))
    assert numbers(daemon, "a") == list(range(1, seen[-1] + 1))


def test_attach_feeds_its_input(daemon: PrivateDaemon) -> None:
    master, slave = pty.openpty()
    first = subprocess.Popen(
        daemon.imod_command("run", "-it", "--name", "a", IMAGE, "sh"), stdin=slave, stdout=slave, stderr=slave
    )
    until(lambda: inspected_status(daemon, "a") == "running")
    first.kill()  # a client that goes leaves it running
    first.wait(10)
    other, theirs = pty.openpty()
    second = subprocess.Popen(daemon.imod_command("attach", "a"), stdin=theirs, stdout=theirs, stderr=theirs)
    until(lambda: not termios.tcgetattr(theirs)[3] & termios.ICANON)  # what is typed before is dropped
    os.write(other, b"echo $((40+2)); exit 7\n")
    assert second.wait(15) == 7
    said = b""
    while b"42" not in said:
        said += os.read(other, 4096)
    for fd in (master, slave, other, theirs):
        os.close(fd)


def inspected_status(daemon: PrivateDaemon, name: str) -> str:
    done = daemon.imod("inspect", name)
    return json.loads(done.stdout)[0]["status"] if done.returncode == 0 else ""


def test_attach_to_what_does_not_run(daemon: PrivateDaemon) -> None:
    daemon.imod("create", "--name", "a", IMAGE, "true", check=True)
    done = daemon.imod("attach", "a")
    assert done.returncode == 125
    assert "does not run" in done.stderr


def test_on_failure_is_restarted_so_many_times(daemon: PrivateDaemon) -> None:
    started(daemon, "a", "--restart", "on-failure:2", script="echo x; exit 3")
    until(lambda: daemon.imod("logs", "a", check=True).stdout == "x\nx\nx\n")
    until(lambda: inspected(daemon, "a")["status"] == "stopped")
    shown = inspected(daemon, "a")
    assert shown["exit_code"] == 3
    assert shown["labels"]["containerd.io/restart.count"] == "2"


def test_a_success_is_no_failure(daemon: PrivateDaemon) -> None:
    daemon.imod("run", "--name", "a", "--restart", "on-failure", IMAGE, "echo", "x", check=True)
    assert daemon.imod("logs", "a", check=True).stdout == "x\n"
    assert inspected(daemon, "a")["status"] == "stopped"


def test_stop_ends_the_restarts_and_start_begins_them_anew(daemon: PrivateDaemon) -> None:
    started(daemon, "a", "--restart", "always", script="echo x; sleep 0.2")
    until(lambda: len(daemon.imod("logs", "a", check=True).stdout.split()) > 2)
    daemon.imod("stop", "-t", "1", "a", check=True)
    lines = daemon.imod("logs", "a", check=True).stdout
    assert inspected(daemon, "a")["labels"]["containerd.io/restart.explicitly-stopped"] == "true"
    daemon.imod("update", "a", "--restart", "unless-stopped", check=True)
    daemon.imod("start", "a", check=True)
    until(lambda: len(daemon.imod("logs", "a", check=True).stdout) > len(lines) + 4)
    daemon.imod("rm", "-f", "a", check=True)
    assert daemon.imod("inspect", "a").returncode == 125


@pytest.mark.parametrize("policy", ["sometimes", "on-failure:x"])
def test_what_is_no_policy(daemon: PrivateDaemon, policy: str) -> None:
    done = daemon.imod("run", "--restart", policy, IMAGE, "true")
    assert done.returncode == 125
    assert "restart policy" in done.stderr
    assert daemon.imod("ps", "-a", "-q", check=True).stdout == ""


def test_restarts_survive_the_daemon(busybox: Built) -> None:
    """What ended while there was none is started by the next; what somebody stopped is not."""
    with PrivateDaemon() as daemon:
        daemon.imod("images", "import", str(busybox.path), check=True)
        started(daemon, "a", "--restart", "unless-stopped", script="echo x; sleep 1000")
        started(daemon, "b", "--restart", "unless-stopped", script="sleep 1000")
        daemon.imod("stop", "-t", "1", "b", check=True)
        until(lambda: daemon.imod("logs", "a", check=True).stdout == "x\n")
        pid = inspected(daemon, "a")["pid"]
        daemon.kill9()
        os.kill(pid, 9)
        daemon.restart()
        until(lambda: daemon.imod("logs", "a", check=True).stdout == "x\nx\n")
        assert inspected(daemon, "a")["status"] == "running"
        assert inspected(daemon, "b")["status"] == "stopped"
        daemon.imod("rm", "-f", "a", "b", check=True)


def test_a_clients_container_is_restarted_by_its_labels(daemon: PrivateDaemon, tmp_path: Path) -> None:
    log = tmp_path / "log"
    labels = {"status": "running", "policy": "on-failure:1", "loguri": f"file://{log}"}
    words = [word for name, value in labels.items() for word in ("--label", f"containerd.io/restart.{name}={value}")]
    daemon.ctr("run", "-d", "--log-uri", f"file://{log}", *words, IMAGE, "a", "sh", "-c", "echo x; exit 1", check=True)
    until(lambda: log.read_text() == "x\nx\n")
    until(lambda: "STOPPED" in daemon.ctr("tasks", "ls", check=True).stdout)
    daemon.ctr("tasks", "rm", "a")
    daemon.ctr("containers", "rm", "a", check=True)


def test_no_checkpoint_without_the_capability(daemon: PrivateDaemon) -> None:
    if shutil.which("criu"):
        pytest.skip("CRIU is here")
    started(daemon, "a")
    done = daemon.imod("checkpoint", "a")
    assert done.returncode == 125
    assert "runc takes no checkpoints without CRIU" in done.stderr
    assert inspected(daemon, "a")["status"] == "running"
    assert "no checkpoint default" in daemon.imod("restore", "a").stderr


@needs_gvisor
@pytest.mark.slow
def test_checkpoint_and_restore(daemon: PrivateDaemon) -> None:
    started(daemon, "a", "--runtime", "runsc", "--net", "none")
    until(lambda: len(numbers(daemon, "a")) > 3)
    path = Path(daemon.imod("checkpoint", "a", check=True).stdout.strip())
    about = json.loads((path / "checkpoint.json").read_text())
    assert about["plugin"] == "runsc"
    assert about["version"].startswith("runsc version")
    assert inspected(daemon, "a")["status"] == "stopped"
    assert "checkpoint default already" in daemon.imod("checkpoint", "a").stderr
    written = len(numbers(daemon, "a"))
    daemon.imod("restore", "a", check=True)
    until(lambda: len(numbers(daemon, "a")) > written + 3)
    found = numbers(daemon, "a")
    assert found == list(range(1, len(found) + 1))


@needs_gvisor
@pytest.mark.slow
def test_swap_there_and_back(daemon: PrivateDaemon) -> None:
    """The same writable layer, and the runtime is pinned until the next swap."""
    started(daemon, "a", script=f"echo $(uname -r) >> /written; {COUNT}")
    for runtime in ("runsc", "runc"):
        report = daemon.imod("swap", "a", "--runtime", runtime, "--dry-run", check=True).stdout
        assert "(not done)" in report
        assert inspected(daemon, "a")["runtime"] != runtime
        done = daemon.imod("swap", "a", "--runtime", runtime, check=True).stdout
        assert done.splitlines()[1:] == report.splitlines()[1:]
        shown = inspected(daemon, "a")
        assert (shown["runtime"], shown["status"]) == (runtime, "running")
    until(lambda: len(daemon.imod("exec", "a", "cat", "/written", check=True).stdout.split()) == 3)
    first, second, third = daemon.imod("exec", "a", "cat", "/written", check=True).stdout.split()
    assert first == third != second
    assert "is on runc already" in daemon.imod("swap", "a", "--runtime", "runc").stderr


def test_the_old_one_comes_back(busybox: Built, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text('#!/bin/sh\ncase "$*" in *--version*) echo broken 1;; *) exit 1;; esac\n')
    broken.chmod(0o755)
    with PrivateDaemon(f'[runtimes.broken]\nplugin = "runc"\nbinary = "{broken}"') as daemon:
        daemon.imod("images", "import", str(busybox.path), check=True)
        started(daemon, "a", script=f"echo x >> /written; {COUNT}")
        done = daemon.imod("swap", "a", "--runtime", "broken")
        assert done.returncode == 125
        assert "broken create ended with status 1" in done.stderr
        assert "it is on runc again, and runs" in done.stderr
        shown = inspected(daemon, "a")
        assert (shown["runtime"], shown["status"]) == ("runc", "running")
        until(lambda: daemon.imod("exec", "a", "cat", "/written", check=True).stdout == "x\nx\n")
        daemon.imod("rm", "-f", "a", check=True)


@needs_gvisor
@pytest.mark.slow
def test_swap_of_a_stopped_one_does_not_start_it(daemon: PrivateDaemon) -> None:
    daemon.imod("create", "--name", "a", IMAGE, "dmesg", check=True)
    daemon.imod("swap", "a", "--runtime", "runsc", check=True)
    shown = inspected(daemon, "a")
    assert (shown["runtime"], shown["status"]) == ("runsc", "created")
    assert "gVisor" in daemon.imod("start", "-a", "a", check=True).stdout


def test_swap_is_refused_with_a_reason(daemon: PrivateDaemon) -> None:
    started(daemon, "a")
    assert "there is no runtime nothing" in daemon.imod("swap", "a", "--runtime", "nothing").stderr
    assert inspected(daemon, "a")["status"] == "running"


@needs_gvisor
def test_swap_from_an_overlay_of_gvisors_own_names_the_option(busybox: Built) -> None:
    with PrivateDaemon('[runtimes.hidden]\nplugin = "runsc"\noverlay = "root:memory"') as private:
        private.imod("images", "import", str(busybox.path), check=True)
        private.imod("create", "--name", "a", "--runtime", "hidden", IMAGE, "true", check=True)
        done = private.imod("swap", "a", "--runtime", "runc")
        assert done.returncode == 125
        assert "overlay = 'root:memory'" in done.stderr
        private.imod("rm", "a", check=True)


def test_diff_lists_what_was_changed(daemon: PrivateDaemon) -> None:
    script = "echo x > /new; echo y >> /etc/passwd; rm /bin/yes; mkdir -p /d/e"
    daemon.imod("run", "--name", "a", IMAGE, "sh", "-c", script, check=True)
    lines = daemon.imod("diff", "a", check=True).stdout.splitlines()
    assert {"A /new", "C /etc/passwd", "D /bin/yes", "A /d", "A /d/e"} <= set(lines)
    assert not [line for line in lines if line.endswith(("/bin/sh", "/etc/group"))]


def test_swap_to_another_snapshotter(daemon: PrivateDaemon) -> None:
    """What was changed goes along, and nothing stays behind."""
    started(daemon, "a", "--snapshotter", "overlayfs", script=f"rm /bin/yes; echo x >> /written; {COUNT}")
    until(lambda: daemon.imod("exec", "a", "cat", "/written").stdout == "x\n")
    before = inspected(daemon, "a")
    report = daemon.imod("swap", "a", "--snapshotter", "native", check=True).stdout
    assert "native instead of overlayfs" in report
    after = inspected(daemon, "a")
    assert (after["snapshotter"], after["runtime"], after["status"]) == ("native", before["runtime"], "running")
    until(lambda: daemon.imod("exec", "a", "cat", "/written", check=True).stdout == "x\nx\n")
    assert daemon.imod("exec", "a", "test", "-e", "/bin/yes").returncode == 1
    keys = daemon.ctr("snapshots", "--snapshotter", "overlayfs", "ls", check=True).stdout
    assert before["snapshot_key"] not in keys
    assert "swap needs something" in daemon.imod("swap", "a").stderr
