"""`imod --embedded`: a daemon that comes when it is needed and goes when it is not."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.harness.daemon import BIN, PrivateDaemon
from tests.harness.images import busybox_layout


def pid_of(state: Path) -> int:
    return int((state / "lock").read_text().splitlines()[0])


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Place:
    """A root and a state that nobody serves yet."""

    def __init__(self, base: Path) -> None:
        self.root, self.state = base / "root", base / "state"

    def imod(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [f"{BIN}/imod", "--embedded", "--root", str(self.root), "--state", str(self.state), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)


@pytest.fixture
def place() -> Iterator[Place]:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="imod-", dir=memory if memory.is_dir() else None) as base:
        place = Place(Path(base))
        yield place
        if (place.state / "lock").exists() and alive(pid := pid_of(place.state)):
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + 30
            while alive(pid):
                assert time.monotonic() < deadline
                time.sleep(0.02)


def test_it_starts_one_and_the_next_call_joins_it(place: Place) -> None:
    first = place.imod("version")
    assert first.returncode == 0, first.stderr
    pid = pid_of(place.state)
    assert f"(pid {pid}, {place.state}/intermodal.sock)" in first.stdout
    assert place.imod("version").stdout == first.stdout
    assert os.getsid(pid) == pid, "it does not end with our terminal"
    assert (place.state / "intermodald.log").exists()


def test_many_at_once_share_one(place: Place) -> None:
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: place.imod("version"), range(4)))
    assert [each.returncode for each in done] == [0] * 4, [each.stderr for each in done]
    assert len({each.stdout for each in done}) == 1


def test_it_joins_one_that_listens_elsewhere(place: Place) -> None:
    with PrivateDaemon(start=False) as daemon:
        place.root, place.state = daemon.root, daemon.state
        daemon.address = str(daemon.base / "other.sock")
        daemon.start()
        done = place.imod("version")
        assert done.returncode == 0, done.stderr
        assert f"(pid {daemon.pid}, {daemon.address})" in done.stdout


def test_one_that_cannot_start_says_why(place: Place) -> None:
    place.root.parent.joinpath("root").write_text("in the way")
    done = place.imod("version")
    assert "intermodald (none: " in done.stdout
    refused = place.imod("ps")
    assert refused.returncode == 125
    assert refused.stderr.startswith("imod: ")
    assert str(place.root) in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_it_ends_once_nobody_needs_it() -> None:
    with PrivateDaemon(arguments=["--exit-idle", "1"]) as daemon:
        assert daemon.process is not None
        command = daemon.imod_command("events")
        with subprocess.Popen(command, stdout=subprocess.PIPE) as watching:
            with pytest.raises(subprocess.TimeoutExpired):
                daemon.process.wait(2)  # a call is open
            watching.terminate()
        assert daemon.process.wait(30) == 0
        assert daemon.imod("ps").returncode == 125


def test_a_container_that_runs_keeps_it(tmp_path: Path) -> None:
    archive = busybox_layout(tmp_path / "busybox.tar")
    with PrivateDaemon(arguments=["--exit-idle", "1"]) as daemon:
        assert daemon.process is not None
        daemon.imod("images", "import", str(archive.path), check=True)
        daemon.imod("run", "-d", "--rm", "--name", "box", "busybox", "sleep", "600", check=True)
        with pytest.raises(subprocess.TimeoutExpired):
            daemon.process.wait(2)
        daemon.imod("kill", "box", check=True)
        assert daemon.process.wait(30) == 0


def test_a_restart_takes_containers_up(tmp_path: Path) -> None:
    archive = busybox_layout(tmp_path / "busybox.tar")
    with PrivateDaemon() as daemon:
        daemon.imod("images", "import", str(archive.path), check=True)
        daemon.imod("run", "-d", "--name", "box", "busybox", "sh", "-c", "echo before; exec sleep 600", check=True)
        command = daemon.imod_command(
            "run", "--rm", "--name", "front", "busybox", "sh", "-c", "echo ready; exec sleep 600"
        )
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as front:
            assert front.stdout is not None
            assert front.stderr is not None
            assert front.stdout.readline() == "ready\n"
            daemon.imod("exec", "front", "true", check=True)  # its start is recorded, too
            daemon.kill9()
            assert front.wait(30) == 125
            assert front.stderr.readline() == (  # the container has the other end too
                "imod: the daemon ended while it was asked; see its log, and `imod ps` for what runs\n"
            )
        daemon.start()
        assert sorted(daemon.imod("ps", "-q", check=True).stdout.split()) == ["box", "front"]
        assert daemon.imod("exec", "box", "echo", "still", check=True).stdout == "still\n"
        assert daemon.imod("logs", "box", check=True).stdout == "before\n"
        daemon.imod("kill", "box", "front", check=True)
        assert daemon.imod("wait", "box", check=True).stdout == "137\n"
        deadline = time.monotonic() + 30
        while daemon.imod("ps", "-a", "-q", check=True).stdout != "box\n":  # --rm holds over the restart
            assert time.monotonic() < deadline
        daemon.imod("rm", "box", check=True)


def test_a_second_daemon_is_refused_by_the_first_ones_pid() -> None:
    with PrivateDaemon() as daemon:
        command = [f"{BIN}/intermodald", "--root", str(daemon.root), "--state", str(daemon.base / "s2")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1
        assert f"(pid {daemon.pid})" in done.stderr
        assert daemon.imod("version", check=True).stdout


def test_the_harness_sees_what_is_left() -> None:
    daemon = PrivateDaemon()
    here = daemon.base / "here"
    here.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", here], check=True, timeout=10)
    process = subprocess.Popen(["sleep", "600"], env={"INTERMODAL_TEST_MARK": daemon._mark})
    with pytest.raises(AssertionError, match=r"left behind:\n  mount .*/here\n  process \d+: sleep 600"):
        daemon.stop()
    assert process.wait(10) == -signal.SIGKILL
    assert not daemon.base.exists()
