"""imod and real containers: run, exec, what lists and logs show, how they end."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.daemon import PrivateDaemon
from tests.harness.images import NAME, busybox_layout
from tests.harness.waiting import until


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
    deadline = time.monotonic() + 5  # what is on its way out
    while (rest := [leak for leak in daemon.leaks() if not leak.startswith("process")]) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not rest


def view(daemon: PrivateDaemon, name: str) -> dict[str, object]:
    rows = json.loads(daemon.imod("ps", "-a", "-o", "json", check=True).stdout)
    return next(row for row in rows if row["id"] == name)


# In the foreground.


def test_output_and_status_are_the_containers(daemon: PrivateDaemon) -> None:
    done = daemon.imod("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
    assert daemon.imod("ps", "-a", "-q", check=True).stdout == ""


def test_much_output_arrives_whole(daemon: PrivateDaemon) -> None:
    done = daemon.imod("run", "--rm", "busybox", "seq", "1", "200000", check=True)
    assert done.stdout == "".join(f"{n}\n" for n in range(1, 200001))


def test_stdin_with_i_ends_where_ours_ends(daemon: PrivateDaemon) -> None:
    data = bytes(range(256)) * 4096
    done = subprocess.run(
        daemon.imod_command("run", "--rm", "-i", "busybox", "cat"),
        input=data,
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == data


def test_without_i_there_is_no_stdin(daemon: PrivateDaemon) -> None:
    done = daemon.imod("run", "--rm", "busybox", "cat", input="not for you", check=True)
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("options", "command", "said"),
    [
        (["-e", "A=1", "-e", "B=x y"], ["sh", "-c", 'echo "$A $B"'], "1 x y\n"),
        (["-u", "guest"], ["id", "-u"], "1000\n"),
        (["-u", "12:34"], ["sh", "-c", "id -u; id -g"], "12\n34\n"),
        (["-w", "/tmp"], ["pwd"], "/tmp\n"),
        (["--hostname", "here"], ["hostname"], "here\n"),
        (["--entrypoint", "echo"], ["hi"], "hi\n"),
        (["--read-only"], ["sh", "-c", "touch /x 2>/dev/null || echo no"], "no\n"),
        (["--snapshotter", "native"], ["echo", "native"], "native\n"),
        (["--net", "none"], ["sh", "-c", "ls /sys/class/net"], "lo\n"),
    ],
)  # fmt: skip
def test_options(daemon: PrivateDaemon, options: list[str], command: list[str], said: str) -> None:
    assert daemon.imod("run", "--rm", *options, "busybox", *command, check=True).stdout == said


def test_host_network(daemon: PrivateDaemon) -> None:
    inside = daemon.imod("run", "--rm", "--net", "host", "busybox", "readlink", "/proc/self/ns/net", check=True).stdout
    assert inside.strip() == os.readlink("/proc/self/ns/net")


def test_mounts(daemon: PrivateDaemon, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("hello")
    script = "cat /data/in; echo back > /data/out; echo x > /ro/in 2>/dev/null || echo refused"
    volumes = ["-v", f"{tmp_path}:/data", "-v", f"{tmp_path}:/ro:ro"]
    assert daemon.imod("run", "--rm", *volumes, "busybox", "sh", "-c", script, check=True).stdout == "hellorefused\n"
    assert (tmp_path / "out").read_text() == "back\n"
    missing = daemon.imod("run", "--rm", "-v", f"{tmp_path}/not:/data", "busybox", "true")
    assert missing.returncode == 125
    assert "does not exist" in missing.stderr


def test_limits(daemon: PrivateDaemon) -> None:
    daemon.imod(
        "run", "-d", "--name", "limited", "--memory", "64m", "--cpus", "0.5", "busybox", "sleep", "60", check=True
    )
    (inspected,) = json.loads(daemon.imod("inspect", "limited", check=True).stdout)
    limits = inspected["spec"]["linux"]["resources"]
    assert limits["memory"]["limit"] == 64 << 20
    assert limits["cpu"]["quota"] / limits["cpu"]["period"] == 0.5


def test_timings_are_on_stderr(daemon: PrivateDaemon) -> None:
    done = daemon.imod("run", "--rm", "--timings", "busybox", "echo", "hi", check=True)
    assert done.stdout == "hi\n"
    assert re.search(r"^ +[\d.]+ ms  start$", done.stderr, re.MULTILINE)
    assert re.search(r"^ +[\d.]+ ms  together$", done.stderr, re.MULTILINE)


# What cannot run.


def test_a_command_that_is_not_there_is_127(daemon: PrivateDaemon) -> None:
    done = daemon.imod("run", "--rm", "busybox", "nope")
    assert done.returncode == 127
    assert done.stderr.startswith("imod: ")
    assert "nope" in done.stderr
    assert daemon.imod("ps", "-a", "-q", check=True).stdout == ""


def test_a_command_that_cannot_be_executed_is_126(daemon: PrivateDaemon) -> None:
    done = daemon.imod("run", "--rm", "busybox", "/etc/passwd")
    assert done.returncode == 126
    assert daemon.imod("ps", "-a", "-q", check=True).stdout == ""


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["run", "--rm", "nobody/there", "true"], "nobody/there"),
        (["run", "--rm", "--runtime", "nope", "busybox", "true"], "nope"),
        (["run", "--rm", "--snapshotter", "nope", "busybox", "true"], "nope"),
        (["run", "--rm", "--net", "nope", "busybox", "true"], "nope"),
        (["run", "--rm", "-u", "nobodyhere", "busybox", "true"], "nobodyhere"),
        (["run", "--rm", "--name", "no/slash", "busybox", "true"], "no/slash"),
        (["exec", "nobody", "true"], "nobody"),
        (["logs", "nobody"], "nobody"),
        (["rm", "nobody"], "nobody"),
        (["start", "nobody"], "nobody"),
        (["wait", "nobody"], "nobody"),
    ],
)
def test_what_is_not_there_is_named(daemon: PrivateDaemon, words: list[str], part: str) -> None:
    done = daemon.imod(*words)
    assert done.returncode == 125
    assert done.stdout == ""
    assert done.stderr.startswith("imod: ")
    assert part in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert daemon.imod("ps", "-a", "-q", check=True).stdout == ""


def test_a_taken_name(daemon: PrivateDaemon) -> None:
    daemon.imod("create", "--name", "taken", "busybox", check=True)
    done = daemon.imod("run", "--name", "taken", "busybox", "true")
    assert done.returncode == 125
    assert "taken" in done.stderr
    assert daemon.imod("ps", "-a", "-q", check=True).stdout == "taken\n"


# The life of one that is detached.


def test_a_life(daemon: PrivateDaemon) -> None:
    assert (
        daemon.imod("create", "--name", "life", "--label", "a=b", "busybox", "sleep", "600", check=True).stdout
        == "life\n"
    )
    assert view(daemon, "life")["status"] == "created"
    assert daemon.imod("ps", "-q", check=True).stdout == ""
    assert daemon.imod("start", "life", check=True).stdout == "life\n"
    row = view(daemon, "life")
    assert (row["status"], row["image"], row["labels"], row["command"]) == ("running", NAME, {"a": "b"}, "sleep 600")
    assert re.search(
        r"^life +\S+ +sleep 600 +running \d+ seconds? +", daemon.imod("ps", check=True).stdout, re.MULTILINE
    )
    assert daemon.imod("pause", "life", check=True).stdout == "life\n"
    assert view(daemon, "life")["status"] == "paused"
    daemon.imod("unpause", "li", check=True)
    assert view(daemon, "life")["status"] == "running"
    refused = daemon.imod("rm", "life")
    assert refused.returncode == 125
    assert "rm -f" in refused.stderr
    daemon.imod("kill", "-s", "TERM", "life", check=True)
    daemon.imod("kill", "life", check=True)
    assert daemon.imod("wait", "life", check=True).stdout == "137\n"
    assert (view(daemon, "life")["status"], view(daemon, "life")["exit_code"]) == ("stopped", 137)
    daemon.imod("start", "life", check=True)
    assert view(daemon, "life")["status"] == "running"
    daemon.imod("rm", "-f", "life", check=True)
    assert daemon.imod("ps", "-a", "-q", check=True).stdout == ""


def test_stop_and_its_patience(daemon: PrivateDaemon) -> None:
    script = "trap 'echo asked; exit 3' TERM; echo ready; while :; do sleep 0.1; done"
    daemon.imod("run", "-d", "--name", "kind", "busybox", "sh", "-c", script, check=True)
    wait_for_log(daemon, "kind", "ready\n")
    daemon.imod("stop", "kind", check=True)
    assert view(daemon, "kind")["exit_code"] == 3
    assert daemon.imod("logs", "kind", check=True).stdout == "ready\nasked\n"
    daemon.imod(
        "run",
        "-d",
        "--name",
        "deaf",
        "busybox",
        "sh",
        "-c",
        "trap '' TERM; echo ready; while :; do sleep 1; done",
        check=True,
    )
    wait_for_log(daemon, "deaf", "ready\n")
    began = time.monotonic()
    daemon.imod("stop", "-t", "0.5", "deaf", check=True)
    assert 0.5 <= time.monotonic() - began < 9
    assert view(daemon, "deaf")["exit_code"] == 137


def test_rm_with_d_removes_it_at_its_end(daemon: PrivateDaemon) -> None:
    name = daemon.imod("run", "-d", "--rm", "busybox", "sleep", "60", check=True).stdout.strip()
    daemon.imod("stop", "-t", "0.2", name, check=True)
    assert daemon.imod("ps", "-a", "-q", check=True).stdout == ""


def test_start_attached(daemon: PrivateDaemon) -> None:
    daemon.imod("create", "--name", "again", "-i", "busybox", "sh", "-c", "cat; exit 5", check=True)
    for text in ("one\n", "two\n"):
        done = daemon.imod("start", "-a", "-i", "again", input=text)
        assert (done.returncode, done.stdout) == (5, text)


def test_inspect_is_a_list_and_goes_on(daemon: PrivateDaemon) -> None:
    daemon.imod("create", "--name", "seen", "busybox", check=True)
    done = daemon.imod("inspect", "nobody", "seen")
    assert done.returncode == 125
    assert [each["id"] for each in json.loads(done.stdout)] == ["seen"]
    assert "nobody" in done.stderr


# Exec.


def test_exec(daemon: PrivateDaemon) -> None:
    daemon.imod("run", "-d", "--name", "box", "-e", "A=1", "busybox", "sleep", "600", check=True)
    done = daemon.imod("exec", "box", "sh", "-c", "echo $A; echo err >&2; exit 9")
    assert (done.returncode, done.stdout, done.stderr) == (9, "1\n", "err\n")
    assert daemon.imod("exec", "-i", "box", "cat", input="through", check=True).stdout == "through"
    options = ["-e", "B=2", "-u", "guest", "-w", "/tmp"]
    assert (
        daemon.imod("exec", *options, "box", "sh", "-c", "echo $B $(id -un) $(pwd)", check=True).stdout
        == "2 guest /tmp\n"
    )
    assert daemon.imod("exec", "box", "nope").returncode == 127
    assert daemon.imod("exec", "-d", "box", "touch", "/made", check=True).stdout == ""
    until(lambda: daemon.imod("exec", "box", "ls", "/made").returncode == 0, 30)
    assert daemon.imod("logs", "box", check=True).stdout == "", "the log is init's"


def test_short_commands_lose_nothing(daemon: PrivateDaemon) -> None:
    daemon.imod("run", "-d", "--name", "box", "busybox", "sleep", "600", check=True)
    for number in range(12):
        assert daemon.imod("exec", "box", "echo", str(number), check=True).stdout == f"{number}\n"


def test_exec_in_one_that_does_not_run(daemon: PrivateDaemon) -> None:
    daemon.imod("create", "--name", "idle", "busybox", check=True)
    done = daemon.imod("exec", "idle", "true")
    assert done.returncode == 125
    assert done.stderr.startswith("imod: ")


# Signals and terminals.


def test_signals_are_passed_on(daemon: PrivateDaemon) -> None:
    script = "trap 'echo int; exit 4' INT; echo ready; while :; do sleep 0.1; done"
    command = daemon.imod_command("run", "--rm", "--name", "hears", "busybox", "sh", "-c", script)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        # Its output may be faster than the daemon's word that it runs, before which a signal gives the run up.
        daemon.imod("exec", "hears", "true", check=True)
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "int\n"
        assert process.wait(30) == 4


def test_given_up_before_it_runs_nothing_is_left(daemon: PrivateDaemon) -> None:
    """Whenever the signal comes, the container is either never seen or gets it."""
    script = "trap 'exit 143' TERM; while :; do sleep 0.05; done"
    for delay in (0.03, 0.04, 0.05, 0.06, 0.08, 0.1):
        command = daemon.imod_command("run", "--rm", "busybox", "sh", "-c", script)
        with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
            time.sleep(delay)  # a moment of its life, whichever that is
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) in (128 + signal.SIGTERM, -signal.SIGTERM)
        until(lambda: daemon.imod("ps", "-a", "-q", check=True).stdout == "", 30)


def test_imod_killed_leaves_it_running(daemon: PrivateDaemon) -> None:
    command = daemon.imod_command("run", "--name", "stays", "busybox", "sh", "-c", "echo ready; exec sleep 600")
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        daemon.imod("exec", "stays", "true", check=True)  # the daemon's word that it runs has come, too
        process.kill()
    assert view(daemon, "stays")["status"] == "running"
    assert daemon.imod("exec", "stays", "echo", "yes", check=True).stdout == "yes\n"


class Terminal:
    """A command on a terminal of ours."""

    def __init__(self, command: list[str], columns: int = 90, lines: int = 33) -> None:
        self.ours, self.theirs = pty.openpty()
        self.resize(columns, lines)
        self.before = termios.tcgetattr(self.theirs)
        self.process = subprocess.Popen(command, stdin=self.theirs, stdout=self.theirs, stderr=self.theirs)
        self.shown = b""

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, text: bytes) -> None:
        os.write(self.ours, text)

    def expect(self, pattern: bytes) -> None:
        """Read until `pattern` shows; what was shown up to its end is taken."""
        deadline = time.monotonic() + 30
        while (found := re.search(pattern, self.shown)) is None:
            ready, _, _ = select.select([self.ours], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{pattern!r} does not show: {self.shown!r}"
            self.shown += os.read(self.ours, 65536)
        self.shown = self.shown[found.end() :]

    def end(self) -> int:
        """Wait for the command; the terminal is as it was before."""
        status = self.process.wait(30)
        assert termios.tcgetattr(self.theirs) == self.before
        os.close(self.ours)
        os.close(self.theirs)
        return status


def test_a_shell_on_a_terminal(daemon: PrivateDaemon) -> None:
    terminal = Terminal(daemon.imod_command("run", "--rm", "-it", "busybox", "sh"))
    terminal.expect(b"# ")
    terminal.type(b"stty size; test -t 0 && test -t 1 && echo is-a-tty\n")
    terminal.expect(rb"33 90\r\n")
    terminal.expect(rb"is-a-tty\r\n")
    terminal.resize(100, 40)
    terminal.process.send_signal(signal.SIGWINCH)
    terminal.type(b"until stty size | grep -q 100; do sleep 0.05; done; echo resi''zed\n")
    terminal.expect(rb"resized\r\n")
    terminal.type(b"sh -c \"echo beg''un; sleep 600\"\n")
    terminal.expect(rb"begun\r\n")
    terminal.type(b"\x03")
    terminal.expect(b"# ")
    terminal.type(b"exit 6\n")
    assert terminal.end() == 6


def test_exec_on_a_terminal(daemon: PrivateDaemon) -> None:
    daemon.imod("run", "-d", "--name", "box", "busybox", "sleep", "600", check=True)
    terminal = Terminal(daemon.imod_command("exec", "-it", "box", "sh"))
    terminal.expect(b"# ")
    terminal.type(b"stty size; exit 2\n")
    terminal.expect(rb"33 90\r\n")
    assert terminal.end() == 2


def test_a_terminal_needs_one(daemon: PrivateDaemon) -> None:
    done = daemon.imod("run", "--rm", "-it", "busybox", "sh")
    assert done.returncode == 125
    assert done.stderr.startswith("imod: -i with -t needs a terminal on stdin")


# Logs and events.


def wait_for_log(daemon: PrivateDaemon, name: str, text: str) -> None:
    until(lambda: daemon.imod("logs", name, check=True).stdout == text, 30)


def test_logs(daemon: PrivateDaemon) -> None:
    script = "echo one; echo two >&2; printf three"
    daemon.imod("run", "--name", "talks", "busybox", "sh", "-c", script, check=True)
    done = daemon.imod("logs", "talks", check=True)
    assert (done.stdout, done.stderr) == ("one\nthree", "two\n")
    timed = daemon.imod("logs", "-t", "--tail", "2", "talks", check=True)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z two\n", timed.stderr)
    assert timed.stdout.endswith("Z three")


def test_logs_followed_to_the_end(daemon: PrivateDaemon, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    script = "echo begin; until test -e /in/go; do sleep 0.02; done; seq 1 5000; echo end"
    daemon.imod("run", "-d", "--name", "long", "-v", f"{tmp_path}/in:/in", "busybox", "sh", "-c", script, check=True)
    with subprocess.Popen(daemon.imod_command("logs", "-f", "long"), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begin\n"
        (tmp_path / "in/go").touch()
        assert process.stdout.read() == "".join(f"{n}\n" for n in range(1, 5001)) + "end\n"
        assert process.wait(30) == 0
    assert daemon.imod("logs", "-f", "--tail", "1", "long", check=True).stdout == "end\n"


def test_a_rotated_log_is_followed(tmp_path: Path) -> None:
    """More than one file's worth is written while it is followed, with a pause for the reader after each part."""
    archive = busybox_layout(tmp_path / "busybox.tar")
    with PrivateDaemon("[managers.tasks]\nlog_size = 4096\nlog_files = 3") as daemon:
        daemon.imod("images", "import", str(archive.path), check=True)
        (tmp_path / "in").mkdir()
        script = "n=0; while test $n -lt 20; do until test -e /in/$n; do sleep 0.01; done; seq 1 40; n=$((n+1)); done"
        volume = f"{tmp_path}/in:/in"
        daemon.imod("run", "-d", "--name", "turns", "-v", volume, "busybox", "sh", "-c", script, check=True)
        with subprocess.Popen(daemon.imod_command("logs", "-f", "turns"), stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for number in range(20):
                (tmp_path / "in" / str(number)).touch()
                for line in range(1, 41):
                    assert process.stdout.readline() == f"{line}\n"
            assert process.stdout.read() == ""
            assert process.wait(30) == 0
        files = list((daemon.root / "managers/tasks/logs" / daemon.namespace / "turns").iterdir())
        assert len(files) == 3, "older ones are gone"
        daemon.imod("rm", "turns", check=True)


def test_run_imports_nothing_heavy(daemon: PrivateDaemon) -> None:
    words = daemon.imod_command("run", "--rm", "-i", "busybox", "echo", "hi")[1:]
    script = (
        "import sys\nfrom intermodal.cli.main import main\n"
        f"status = main({words!r})\nprint(status, *sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    status, *modules = done.stderr.split()
    assert (status, done.stdout) == ("0", "hi\n")
    assert "intermodal.cli.foreground" in modules
    packages = {module.partition(".")[0] for module in modules}
    assert not packages & {
        "rich",
        "msgspec",
        "google",
        "grpc",
        "pluggy",
        "intermodal_api",
        "asyncio",
        "subprocess",
        "typing",
    }


def test_events(daemon: PrivateDaemon) -> None:
    command = daemon.imod_command("events", "-o", "json", "--filter", "topic~=/tasks/")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seen: list[dict[str, Any]] = []
        while not seen:  # it may subscribe later than the first container runs
            daemon.imod("run", "--rm", "--name", "early", "busybox", "true", check=True)
            if select.select([process.stdout], [], [], 0.2)[0]:
                seen.append(json.loads(process.stdout.readline()))
        daemon.imod("run", "--rm", "--name", "told", "busybox", "sh", "-c", "exit 3")
        while not (seen[-1]["topic"] == "/tasks/delete" and seen[-1]["fields"]["container_id"] == "told"):
            seen.append(json.loads(process.stdout.readline()))
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    told = [event for event in seen if event["fields"]["container_id"] == "told"]
    assert [event["topic"] for event in told] == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
    assert told[2]["fields"]["exit_status"] == 3
    assert {event["namespace"] for event in seen} == {daemon.namespace}
    numbers = [event["sequence"] for event in seen]
    assert numbers == sorted(set(numbers))
    replay = daemon.imod_command("events", "--cursor", str(told[0]["sequence"]))
    with subprocess.Popen(replay, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.terminate()
    assert line.split()[1] == str(told[0]["sequence"] + 1)
