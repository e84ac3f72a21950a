"""The daemon is killed at every step of what it does; the next one ends what was begun, or unmakes it.

A daemon under the launcher is told how many steps it has left, a command is given to it, and it dies on the way. Then it is
started again, and `world.settled` compares what is recorded with what there is.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness.images import Built, Entry, layer_tar, write_image
from tests.harness.mortal import Mortal
from tests.harness.waiting import until
from tests.harness.world import records, settled

IMAGE = "docker.io/library/busybox:latest"
#: Ends with 5 when it is told to, and says when it listens.
PATIENT = ("sh", "-c", "trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done")
#: More steps than any command has.
MOST = 400
SECONDS = 20


Command = Callable[[Mortal, int], "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True)
class Scenario:
    """`prepare`, then `command` is killed on its way, then `after` looks and leaves all as it was before.

    `client`: what the command made is recorded one by one for the client, which keeps what it has of it.
    """

    name: str
    command: Command
    after: Callable[[Mortal, int], None]
    prepare: Callable[[Mortal, int], None] = lambda daemon, k: None
    client: bool = False


# What the commands leave, and how it is tidied up.


def small_image(daemon: Mortal, k: int) -> Path:
    """An image of its own for each k, so that all of it is new each time."""
    path = daemon.base / f"small-{k}.tar"
    if not path.exists():
        write_image(path, [layer_tar([Entry("a", str(k).encode())])], name=name_of(k))
    return path


def name_of(k: int) -> str:
    return f"docker.io/library/small:{k}"


def imported(command: Command) -> Callable[[Mortal, int], None]:
    """The image is there whole or not at all, and can be imported."""

    def after(daemon: Mortal, k: int) -> None:
        command(daemon, k).check_returncode()
        assert name_of(k) in daemon.ctr("images", "ls", "-q", check=True).stdout.split()
        check = daemon.ctr("images", "check", f"name=={name_of(k)}", check=True).stdout
        assert "complete" in check, check
        assert check.split()[-1] == "true", check

    return after


def imod_import(daemon: Mortal, k: int) -> subprocess.CompletedProcess[str]:
    return imod("images", "import", str(small_image(daemon, k)))(daemon, k)


def ctr_import(daemon: Mortal, k: int) -> subprocess.CompletedProcess[str]:
    return ctr("images", "import", str(small_image(daemon, k)))(daemon, k)


def names(daemon: Mortal) -> list[str]:
    return daemon.imod("ps", "-a", "-q", check=True).stdout.split()


def absent_or_whole(daemon: Mortal, k: int) -> None:
    """A container that is there can be started, one that runs stopped with its own status; then the name is free."""
    if names(daemon):
        if "up" not in daemon.imod("logs", "c", check=True).stdout:
            daemon.imod("start", "c", check=True)
        listening(daemon)
        assert daemon.imod("exec", "c", "echo", "in", check=True).stdout == "in\n"
        stopped(daemon)
    again = daemon.imod("run", "-d", "--name", "c", "--net", "none", "busybox", *PATIENT)
    assert again.returncode == 0, again.stderr
    listening(daemon)
    stopped(daemon)


def listening(daemon: Mortal) -> None:
    until(lambda: "up" in daemon.imod("logs", "c", check=True).stdout, SECONDS)


def stopped(daemon: Mortal) -> None:
    assert daemon.imod("stop", "c", check=True).returncode == 0
    assert daemon.imod("inspect", "c", check=True).stdout.count('"exit_code": 5') == 1
    daemon.imod("rm", "c", check=True)


def runs(daemon: Mortal, k: int) -> None:
    daemon.imod("run", "-d", "--name", "c", "--net", "none", "busybox", *PATIENT, check=True)
    listening(daemon)


def stopping(daemon: Mortal, k: int) -> None:
    """It runs or has ended with its own status."""
    assert names(daemon) == ["c"]
    if '"running"' in daemon.imod("inspect", "c", check=True).stdout:
        daemon.imod("stop", "c", check=True)
    assert daemon.imod("inspect", "c", check=True).stdout.count('"exit_code": 5') == 1
    daemon.imod("rm", "c", check=True)


def swapped(daemon: Mortal, k: int) -> None:
    """It runs, there or here, and can be stopped."""
    until(lambda: '"running"' in daemon.imod("inspect", "c", check=True).stdout, SECONDS)
    heeds_term = ("grep", "-q", "SigCgt.*[4-7c-f]...$", "/proc/1/status")
    until(lambda: daemon.imod("exec", "c", *heeds_term).returncode == 0, SECONDS)
    stopped(daemon)
    not_unpacked(daemon, k)


def removed(daemon: Mortal, k: int) -> None:
    """It is there, or gone; removing it again makes it so."""
    if names(daemon):
        daemon.imod("rm", "-f", "c", check=True)
    assert names(daemon) == []


def gone(daemon: Mortal, k: int) -> None:
    """What --rm promised is kept by the next daemon."""
    until(lambda: names(daemon) == [], SECONDS)


def not_unpacked(daemon: Mortal, k: int) -> None:
    """The snapshotter native is ready and holds nothing."""
    lines = daemon.ctr("snapshots", "--snapshotter", "native", "ls", check=True).stdout.splitlines()
    for line in lines[1:]:
        daemon.ctr("snapshots", "--snapshotter", "native", "rm", line.split()[0], check=True)


def ctr_runs(daemon: Mortal, k: int) -> None:
    daemon.ctr("run", "-d", IMAGE, "c", *PATIENT, check=True)


def ctr_removed(daemon: Mortal, k: int) -> None:
    """A client takes apart what it finds, piece by piece, and makes it anew."""
    tidy(daemon)
    again = daemon.ctr("run", "--rm", IMAGE, "c", "sh", "-c", "exit 4")
    assert again.returncode == 4, again.stderr
    tidy(daemon)


def tidy(daemon: Mortal) -> None:
    if "c" in daemon.ctr("tasks", "ls", "-q", check=True).stdout.split():
        daemon.ctr("tasks", "kill", "-s", "KILL", "c")
        until(lambda: "RUNNING" not in daemon.ctr("tasks", "ls", check=True).stdout, SECONDS)
        daemon.ctr("tasks", "rm", "c")
    daemon.ctr("containers", "rm", "c")
    daemon.ctr("snapshots", "rm", "c")
    for row in records(daemon, "leases"):
        daemon.ctr("leases", "rm", row["id"], check=True)


def imod(*words: str) -> Command:
    return lambda daemon, k: to_its_end(daemon, daemon.imod_command(*words))


def ctr(*words: str) -> Command:
    return lambda daemon, k: to_its_end(
        daemon, ["ctr", "--address", daemon.address, "--namespace", daemon.namespace, *words]
    )


def to_its_end(daemon: Mortal, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command; ctr waits for a daemon that has died for as long as one lets it."""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + SECONDS
        while process.poll() is None and not daemon.died():
            assert time.monotonic() < deadline, f"{command} does not end"
            time.sleep(0.005)
        try:
            _, words = process.communicate(timeout=1)
        except subprocess.TimeoutExpired:
            process.kill()
            _, words = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, "", words)


SCENARIOS = [
    Scenario("imod-import", imod_import, imported(imod_import)),
    Scenario("ctr-import", ctr_import, imported(ctr_import), client=True),
    Scenario("create", imod("create", "--name", "c", "--net", "none", "busybox", *PATIENT), absent_or_whole),
    Scenario("run", imod("run", "-d", "--name", "c", "--net", "none", "busybox", *PATIENT), absent_or_whole),
    Scenario(
        "run-native",
        imod("run", "-d", "--name", "c", "--net", "none", "--snapshotter", "native", "busybox", *PATIENT),
        absent_or_whole,
        not_unpacked,
    ),
    Scenario("run-rm", imod("run", "--rm", "--net", "none", "busybox", "true"), gone),
    Scenario("stop", imod("stop", "c"), stopping, runs),
    Scenario("rm", imod("rm", "-f", "c"), removed, runs),
    Scenario("swap", imod("swap", "c", "--runtime", "other"), swapped, runs),
    Scenario("swap-snapshotter", imod("swap", "c", "--snapshotter", "native"), swapped, runs),
    Scenario("ctr-run", ctr("run", "-d", IMAGE, "c", *PATIENT), ctr_removed, client=True),
    Scenario("ctr-run-rm", ctr("run", "--rm", IMAGE, "c", "true"), ctr_removed, client=True),
    Scenario("ctr-kill", ctr("tasks", "kill", "-s", "KILL", "c"), ctr_removed, ctr_runs, client=True),
    Scenario("ctr-delete", ctr("tasks", "rm", "-f", "c"), ctr_removed, ctr_runs, client=True),
]


@contextmanager
def mortal(image: Built) -> Iterator[Mortal]:
    daemon = Mortal('[runtimes.other]\nplugin = "runc"')
    with daemon:
        daemon.ctr("images", "import", str(image.path), check=True)
        yield daemon


def killed_at(daemon: Mortal, scenario: Scenario, k: int, fine: bool = False) -> str:
    """One round; the step that was not taken, "" where the command came to its end before."""
    scenario.prepare(daemon, k)
    settled(daemon, client=scenario.client)
    daemon.within(k, fine)
    done = scenario.command(daemon, k)
    if daemon.died(0.3):
        step = daemon.step
        daemon.again()
    else:
        step = ""
        assert done.returncode == 0, done.stderr
        daemon.order.unlink(missing_ok=True)
        daemon.restart()
    try:
        settled(daemon, client=scenario.client)
        scenario.after(daemon, k)
        settled(daemon, client=scenario.client)
    except AssertionError as error:
        error.add_note(f"{scenario.name} was killed before step {k}: {step}")
        raise
    return step


def every_step(scenario: Scenario, image: Built, fine: bool) -> list[str]:
    steps: list[str] = []
    with mortal(image) as daemon:
        for k in range(1, MOST):
            step = killed_at(daemon, scenario, k, fine)
            if not step:
                return steps
            steps.append(step)
    raise AssertionError(f"{scenario.name} does not end within {MOST} steps")


@pytest.mark.parametrize("name", ["imod-import", "run", "rm", "ctr-run"])
def test_killed_at_some_steps(busybox: Built, name: str) -> None:
    """A few of those below, for every day."""
    (scenario,) = (each for each in SCENARIOS if each.name == name)
    with mortal(busybox) as daemon:
        steps = [killed_at(daemon, scenario, k) for k in (2, 5, 11, 17)]
    assert steps[0]


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_killed_at_every_step(busybox: Built, scenario: Scenario) -> None:
    assert every_step(scenario, busybox, fine=False)


@pytest.mark.soak
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_killed_at_every_change_of_the_file_system(busybox: Built, scenario: Scenario) -> None:
    assert every_step(scenario, busybox, fine=True)


@pytest.mark.slow
def test_a_start_that_the_runtime_completed_is_finished(busybox: Built) -> None:
    """Its output may be out already when the daemon dies with the record not committed; the next one commits it."""
    (scenario,) = (each for each in SCENARIOS if each.name == "run")
    finished = 0
    with mortal(busybox) as daemon:
        log = daemon.root / "managers/tasks/logs" / daemon.namespace / "c/container.log"
        for k in range(8, MOST):
            daemon.within(k)
            scenario.command(daemon, k)
            if not daemon.died(0.3):
                daemon.restart()
                stopped(daemon)
                break
            began = log.exists() and "up" in log.read_text()
            daemon.again()
            settled(daemon)
            assert names(daemon) == ["c"] or not began
            finished += began
            if began:
                assert '"running"' in daemon.imod("inspect", "c", check=True).stdout
            scenario.after(daemon, k)
    assert finished


@pytest.mark.slow
@pytest.mark.parametrize("name", ["imod-import", "run"])
def test_killed_again_at_every_step_of_the_recovery(busybox: Built, name: str) -> None:
    """What a daemon was killed over in the middle, and its successor over unmaking, the third one ends."""
    (scenario,) = (each for each in SCENARIOS if each.name == name)
    with mortal(busybox) as daemon:
        for step in range(1, MOST):
            killed = restarted_and_killed(daemon, scenario, step)
            settled(daemon)
            scenario.after(daemon, step)
            settled(daemon)
            if not killed:
                break
    assert 1 < step < MOST - 1


def restarted_and_killed(daemon: Mortal, scenario: Scenario, step: int) -> bool:
    """Kill it in the middle of the command, and the next one before that step; whether that had so many."""
    daemon.within(20)
    scenario.command(daemon, step)
    assert daemon.died(1)
    daemon.kill9()
    daemon.within(step)
    try:
        daemon.start()
    except RuntimeError:  # before it was ready
        killed = True
    else:
        killed = daemon.died(1)
    daemon.again()
    return killed
