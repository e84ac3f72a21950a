"""What every test gets: a worker of its own kernel namespaces, and a check that nothing is left behind.

Each worker has its own mount and network namespace and takes in what its tests orphan, so that a process that a test leaves,
however deep, is seen. Mounts, processes, loop devices and named network namespaces are compared around every test.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from intermodal_core import syscalls

from tests.harness.daemon import PrivateDaemon
from tests.harness.images import Built, busybox_layout

#: How long a process that is on its way out has until it counts as left behind.
GRACE = 5.0


def pytest_configure(config: pytest.Config) -> None:
    """Make this worker's namespaces; the controller of several workers keeps the machine's."""
    if os.geteuid() != 0 or (config.getoption("numprocesses", None) and not hasattr(config, "workerinput")):
        return
    syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWNET)
    syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    Path("/run/netns").mkdir(exist_ok=True)
    syscalls.mount("none", "/run/netns", "tmpfs")  # names of network namespaces, too, are this worker's own
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)


@pytest.fixture(autouse=True)
def nothing_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail a test after which there is a mount, process, loop device or network namespace more than before."""
    _reap_orphans()
    base = str(tmp_path_factory.getbasetemp())
    before = _inventory(base)
    yield
    deadline = time.monotonic() + GRACE
    while (left := _inventory(base) - before) and time.monotonic() < deadline:
        time.sleep(0.02)
    for what, name in left:
        if what == "process":
            os.kill(int(name.split()[0]), signal.SIGKILL)
    assert not left, "left behind: " + ", ".join(f"{what} {name}" for what, name in sorted(left))


def _inventory(base: str) -> set[tuple[str, str]]:
    """What there is now; of loop devices, which all workers share, those on files below `base`."""
    mounts = {("mount", line.split()[4]) for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    backing = {path: path.read_text() for path in Path("/sys/block").glob("loop*/loop/backing_file")}
    loops = {("loop device", path.parts[3]) for path, file in backing.items() if file.startswith(base)}
    netns = {("network namespace", path.name) for path in Path("/run/netns").glob("*")}
    processes = {("process", f"{pid} {words}") for pid, words in _children() if words}
    return mounts | loops | netns | processes


def _children() -> Iterator[tuple[int, str]]:
    """This worker's children, adopted ones included, and their command lines; of a zombie it is empty."""
    for task in Path("/proc/self/task").iterdir():
        try:
            pids = (task / "children").read_text().split()
        except OSError:
            continue  # the thread has ended
        for pid in pids:
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            yield int(pid), words.strip()


_zombies: set[int] = set()


def _reap_orphans() -> None:
    """Wait for processes that tests' processes left to this worker and that have ended.

    One that was a zombie a whole test ago already has nobody else who waits for it.
    """
    now = {pid for pid, words in _children() if not words}
    for pid in now & _zombies:
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass
    _zombies.clear()
    _zombies.update(now)


@pytest.fixture(scope="session")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """An archive of busybox:latest, whose only command is `sh`."""
    return busybox_layout(tmp_path_factory.mktemp("image") / "busybox.tar")


@pytest.fixture
def daemon() -> Iterator[PrivateDaemon]:
    """A daemon of the test's own."""
    with PrivateDaemon() as daemon:
        yield daemon


@pytest.fixture
def busybox_daemon(daemon: PrivateDaemon, busybox: Built) -> PrivateDaemon:
    """A daemon of the test's own that holds busybox:latest."""
    daemon.imod("images", "import", str(busybox.path), check=True)
    return daemon
