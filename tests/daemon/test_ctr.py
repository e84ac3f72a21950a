"""Debian's stock ctr drives this daemon."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.daemon import PrivateDaemon
from tests.harness.images import Built
from tests.harness.waiting import until

IMAGE = "docker.io/library/busybox:latest"


@pytest.fixture
def stock(daemon: PrivateDaemon, busybox: Built) -> PrivateDaemon:
    """A daemon that ctr imported busybox into."""
    daemon.ctr("images", "import", str(busybox.path), check=True)
    return daemon


def status_of(daemon: PrivateDaemon, task: str) -> str:
    """The third column of `ctr tasks ls`."""
    for line in daemon.ctr("tasks", "ls", check=True).stdout.splitlines()[1:]:
        words = line.split()
        if words[0] == task:
            return words[2]
    return ""


def test_version_plugins_and_namespaces(daemon: PrivateDaemon) -> None:
    assert "intermodal" in daemon.ctr("version", check=True).stdout
    rows = daemon.ctr("plugins", "ls", check=True).stdout
    assert re.search(r"io\.containerd\.snapshotter\.v1 +overlayfs +linux/amd64 +ok", rows)
    assert re.search(r"dev\.intermodal\.networks\.v1 +host ", rows)
    daemon.ctr("namespaces", "create", "one", "a=b", check=True)
    assert re.search(r"^one +a=b", daemon.ctr("namespaces", "ls", check=True).stdout, re.M)
    daemon.ctr("namespaces", "label", "one", "a=c", check=True)
    assert re.search(r"^one +a=c", daemon.ctr("namespaces", "ls", check=True).stdout, re.M)
    daemon.ctr("namespaces", "rm", "one", check=True)
    assert "one" not in daemon.ctr("namespaces", "ls", "-q", check=True).stdout.split()


def test_import_list_unpack_and_remove(stock: PrivateDaemon, busybox: Built) -> None:
    assert IMAGE in stock.ctr("images", "ls", "-q", check=True).stdout
    assert "linux/amd64" in stock.ctr("images", "ls", check=True).stdout
    check = stock.ctr("images", "check", check=True).stdout
    assert "complete" in check
    assert "true" in check, "ctr sees that it is unpacked"
    assert "Committed" in stock.ctr("snapshots", "ls", check=True).stdout
    assert "native" not in stock.ctr("snapshots", "--snapshotter", "native", "ls", check=True).stdout
    assert "sha256:" in stock.ctr("content", "ls", "-q", check=True).stdout
    stock.ctr("images", "label", IMAGE, "colour=red", check=True)
    assert "colour=red" in stock.ctr("images", "ls", check=True).stdout
    assert IMAGE in stock.ctr("images", "ls", "-q", f"name=={IMAGE}", check=True).stdout
    assert IMAGE not in stock.ctr("images", "ls", "-q", "name==other", check=True).stdout
    stock.ctr("images", "tag", IMAGE, "docker.io/library/other:1", check=True)
    stock.ctr("images", "rm", IMAGE, check=True)
    assert stock.ctr("images", "ls", "-q", check=True).stdout.split() == ["docker.io/library/other:1"]


def test_content_is_read_back_whole(stock: PrivateDaemon) -> None:
    import hashlib

    for digest in stock.ctr("content", "ls", "-q", check=True).stdout.split():
        command = ["ctr", "--address", stock.address, "--namespace", stock.namespace, "content", "get", digest]
        data = subprocess.run(command, capture_output=True, check=True, timeout=30).stdout
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == digest


def test_export_and_import_again(stock: PrivateDaemon, tmp_path: Path) -> None:
    stock.ctr("images", "export", str(tmp_path / "out.tar"), IMAGE, check=True)
    stock.ctr("images", "rm", IMAGE, check=True)
    stock.ctr("images", "import", str(tmp_path / "out.tar"), check=True)
    done = stock.ctr("run", "--rm", IMAGE, "again", "echo", "back")
    assert (done.returncode, done.stdout, done.stderr) == (0, "back\n", "")


def test_a_second_snapshotter(stock: PrivateDaemon, busybox: Built) -> None:
    stock.ctr("images", "import", "--snapshotter", "native", str(busybox.path), check=True)
    done = stock.ctr("run", "--rm", "--snapshotter", "native", IMAGE, "c", "echo", "native")
    assert (done.returncode, done.stdout) == (0, "native\n")


def test_run_to_the_end(stock: PrivateDaemon) -> None:
    done = stock.ctr("run", "--rm", "--env", "X=y", IMAGE, "c", "sh", "-c", "echo out $X; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out y\n", "err\n")
    assert stock.ctr("containers", "ls", "-q", check=True).stdout == ""
    assert stock.ctr("tasks", "ls", "-q", check=True).stdout == ""


def test_run_reads_its_input_to_the_end(stock: PrivateDaemon) -> None:
    data = os.urandom(300_000).hex()
    done = stock.ctr("run", "--rm", IMAGE, "c", "wc", "-c", input=data)
    assert (done.returncode, done.stdout.strip()) == (0, "600000")


def test_much_output(stock: PrivateDaemon) -> None:
    done = stock.ctr("run", "--rm", IMAGE, "c", "sh", "-c", "yes 0123456789abcde | head -c 16000000")
    assert done.returncode == 0
    assert done.stdout == "0123456789abcde\n" * 1_000_000


def pid_of(daemon: PrivateDaemon, name: str) -> int:
    found = re.search(rf"^{name} +(\d+)", daemon.ctr("tasks", "ls", check=True).stdout, re.M)
    assert found is not None
    return int(found[1])


def _catches(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler for the signal: a shell begins before its `trap` does."""
    caught = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.M)
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


@pytest.fixture
def running(stock: PrivateDaemon) -> Iterator[PrivateDaemon]:
    """A container `c` that sleeps."""
    stock.ctr("run", "--detach", IMAGE, "c", "sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.05; done", check=True)
    until(lambda: _catches(pid_of(stock, "c"), signal.SIGTERM))
    yield stock
    stock.ctr("tasks", "kill", "--signal", "SIGKILL", "--all", "c")
    until(lambda: status_of(stock, "c") in ("STOPPED", ""))
    stock.ctr("tasks", "rm", "c")
    stock.ctr("containers", "rm", "c")


def test_detached_life(running: PrivateDaemon) -> None:
    assert status_of(running, "c") == "RUNNING"
    assert re.search(
        r"^c +docker.io/library/busybox:latest +io.containerd.runc.v2", running.ctr("c", "ls").stdout, re.M
    )
    running.ctr("tasks", "pause", "c", check=True)
    assert status_of(running, "c") == "PAUSED"
    running.ctr("tasks", "resume", "c", check=True)
    assert status_of(running, "c") == "RUNNING"
    assert len(running.ctr("tasks", "ps", "c", check=True).stdout.splitlines()) >= 2
    assert "memory" in running.ctr("tasks", "metrics", "c", check=True).stdout
    refused = running.ctr("tasks", "rm", "c")
    assert refused.returncode != 0
    running.ctr("tasks", "kill", "c", check=True)
    until(lambda: status_of(running, "c") == "STOPPED")
    assert "exit with non-zero exit code 5" in running.ctr("tasks", "rm", "c", check=True).stderr


def test_exec(running: PrivateDaemon) -> None:
    done = running.ctr("tasks", "exec", "--exec-id", "e1", "c", "sh", "-c", "echo in; echo er >&2; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, "in\n", "er\n")
    done = running.ctr("tasks", "exec", "--exec-id", "e1", "c", "cat", input="through")
    assert (done.returncode, done.stdout) == (0, "through"), "the id is free again"
    missing = running.ctr("tasks", "exec", "--exec-id", "e2", "c", "/no/such/thing")
    assert missing.returncode != 0
    assert "/no/such/thing" in missing.stderr
    after = running.ctr("tasks", "exec", "--exec-id", "e2", "c", "true")
    assert after.returncode == 0, "a failed exec leaves nothing in the way"


def test_with_a_terminal(stock: PrivateDaemon) -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    command = ["ctr", "--address", stock.address, "--namespace", stock.namespace]
    command += ["run", "--rm", "--tty", IMAGE, "c", "sh"]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    seen = b""

    def read(seconds: float) -> bool:
        nonlocal seen
        if not select.select([master], [], [], seconds)[0]:
            return False
        try:
            seen += os.read(master, 4096)
        except OSError:  # ctr has closed the terminal
            return False
        return True

    try:
        for _ in range(100):  # ctr tells the size once the shell runs
            os.write(master, b"stty size\n")
            while read(0.2):
                pass
            if b"\n40 100\r" in seen:
                break
        os.write(master, b"tty; echo $((6*7)); exit 9\n")
        while process.poll() is None or read(0.1):
            read(0.1)
        assert process.wait(20) == 9
        assert b"\n40 100\r" in seen
        assert b"\n/dev/pts/0\r" in seen
        assert b"\n42\r" in seen
    finally:
        os.close(master)
        if process.poll() is None:
            process.kill()
            process.wait()


def test_the_writable_layer_is_the_containers_own(stock: PrivateDaemon) -> None:
    stock.ctr("run", "--rm", IMAGE, "a", "sh", "-c", "echo x > /made", check=True)
    assert stock.ctr("run", "--rm", IMAGE, "b", "ls", "/made").returncode == 1


def test_a_missing_command_leaves_nothing(stock: PrivateDaemon) -> None:
    done = stock.ctr("run", "--rm", IMAGE, "c", "/no/such/thing")
    assert done.returncode != 0
    assert "/no/such/thing" in done.stderr
    assert stock.ctr("tasks", "ls", "-q", check=True).stdout == ""
    stock.ctr("containers", "rm", "c")


def test_a_name_that_is_taken(running: PrivateDaemon) -> None:
    done = running.ctr("run", "--rm", IMAGE, "c", "true")
    assert done.returncode != 0
    assert "already exists" in done.stderr or "taken" in done.stderr
    assert status_of(running, "c") == "RUNNING"


def test_events_of_a_run(stock: PrivateDaemon) -> None:
    command = ["ctr", "--address", stock.address, "--namespace", stock.namespace, "events"]
    listener = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert listener.stdout is not None
    seen = b""

    def read(seconds: float) -> bool:
        nonlocal seen
        assert listener.stdout is not None
        if not select.select([listener.stdout], [], [], seconds)[0]:
            return False
        seen += os.read(listener.stdout.fileno(), 65536)
        return True

    try:
        for number in range(100):  # an event of our own tells that the subscription stands
            stock.ctr("images", "label", IMAGE, f"marker={number}", check=True)
            if read(0.2):
                break
        stock.ctr("run", "--rm", IMAGE, "c", "true", check=True)
        while b"/containers/delete" not in seen or b"/snapshot/remove" not in seen:
            assert read(10), seen.decode()
        topics = re.findall(r" (/[a-z]+/[a-z-]+) ", seen.decode())
        tasks = [topic for topic in topics if topic.startswith("/tasks/")]
        assert tasks == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
        assert topics.index("/snapshot/prepare") < topics.index("/containers/create") < topics.index("/tasks/create")
    finally:
        listener.terminate()
        listener.wait(10)
        listener.stdout.close()


def test_leases(stock: PrivateDaemon) -> None:
    stock.ctr("leases", "create", "--id", "mine", "--expires", "1h", check=True)
    assert "mine" in stock.ctr("leases", "ls", check=True).stdout
    stock.ctr("leases", "rm", "mine", check=True)
    assert "mine" not in stock.ctr("leases", "ls", check=True).stdout


def test_a_restart_takes_running_containers_up(running: PrivateDaemon) -> None:
    before = running.ctr("tasks", "ls", check=True).stdout
    running.kill9()
    running.start()
    assert running.ctr("tasks", "ls", check=True).stdout == before
    done = running.ctr("tasks", "exec", "--exec-id", "e", "c", "echo", "still here")
    assert done.stdout == "still here\n"
    running.ctr("tasks", "kill", "c", check=True)
    until(lambda: status_of(running, "c") == "STOPPED")
    assert "exit with non-zero exit code 5" in running.ctr("tasks", "rm", "c", check=True).stderr


def test_an_end_while_no_daemon_runs_is_not_lost(running: PrivateDaemon) -> None:
    pid = pid_of(running, "c")
    running.kill9()
    os.kill(pid, signal.SIGTERM)
    until(lambda: not Path(f"/proc/{pid}").exists())
    running.start()
    until(lambda: status_of(running, "c") == "STOPPED")
    assert "exit with non-zero exit code 5" in running.ctr("tasks", "rm", "c", check=True).stderr
