"""Events from the daemon's outside: replay by time and number, and sinks that get all of them, whatever ends when."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.harness.daemon import PrivateDaemon
from tests.harness.site import install
from tests.harness.waiting import until


def label(daemon: PrivateDaemon, value: int) -> None:
    """One event more: the test's namespace gets a label."""
    daemon.ctr("namespaces", "label", daemon.namespace, f"n={value}", check=True)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def values(path: Path) -> list[str]:
    return [line["fields"]["labels"]["n"] for line in lines(path) if line["topic"] == "/namespaces/update"]


def replay(daemon: PrivateDaemon, count: int, *arguments: str) -> list[dict[str, Any]]:
    command = daemon.imod_command("events", "-o", "json", "-A", *arguments)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = [json.loads(process.stdout.readline()) for _ in range(count)]
        process.terminate()
    return found


def test_replay_since_a_time_and_after_a_number() -> None:
    with PrivateDaemon() as daemon:
        daemon.ctr("namespaces", "create", daemon.namespace, check=True)
        label(daemon, 1)
        daemon.restart()
        between = time.time_ns()
        label(daemon, 2)
        label(daemon, 3)
        recent = replay(daemon, 4, "--since", "1h")
        assert [event["topic"] for event in recent] == ["/namespaces/create"] + ["/namespaces/update"] * 3
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(between // 10**9)) + f".{between % 10**9:09d}"[:7] + "Z"
        assert [event["sequence"] for event in replay(daemon, 2, "--since", stamp)] == [
            event["sequence"] for event in recent[2:]
        ]
        after = replay(daemon, 1, "--cursor", str(recent[2]["sequence"]))
        assert after == recent[3:]
        late = daemon.imod("events", "--cursor", "99999999")
        assert late.returncode == 125
        assert "has not happened yet" in late.stderr
        wrong = daemon.imod("events", "--since", "yesterday")
        assert "'yesterday' is no time: write 10m" in wrong.stderr


def test_sinks_get_every_event_across_kill_and_failure(tmp_path: Path) -> None:
    """A file, and a command that refuses for a while; the daemon is killed between."""
    gate, taken, plain = tmp_path / "gate", tmp_path / "taken", tmp_path / "plain"
    script = f'[ -e "{gate}" ] || {{ echo closed >&2; exit 1; }}; cat >> "{taken}"'
    config = f"""
[event_sinks.file]
plugin = "jsonl"
path = "{plain}"
filters = ['topic=="/namespaces/update"']

[event_sinks.exec]
command = ["sh", "-c", {json.dumps(script)}]
"""
    with PrivateDaemon(config) as daemon:
        daemon.ctr("namespaces", "create", daemon.namespace, check=True)
        for number in range(5):
            label(daemon, number)
        until(lambda: values(plain) == [str(number) for number in range(5)])
        assert {line["topic"] for line in lines(plain)} == {"/namespaces/update"}
        rows = {row["name"]: row for row in sinks(daemon)}
        assert rows["exec"]["lag"] >= 5
        assert rows["exec"]["error"] == "sh ended with status 1: closed"
        assert (rows["file"]["delivered"], rows["file"]["error"]) == (5, "")
        daemon.kill9()
        daemon.start()
        label(daemon, 5)
        gate.touch()
        until(lambda: values(taken) == [str(number) for number in range(6)])
        until(lambda: values(plain) == [str(number) for number in range(6)])
        until(lambda: all(row["lag"] == 0 for row in sinks(daemon)))
        shown = daemon.imod("events", "--sinks", check=True).stdout.splitlines()
        assert shown[0].split() == ["NAME", "POSITION", "LAG", "DELIVERED", "FAILURES", "LOST", "ERROR"]
        assert [line.split()[0] for line in shown[1:]] == ["exec", "file"]


def test_a_malformed_filter_is_shown_and_harms_no_other_sink(tmp_path: Path) -> None:
    config = f"""
[event_sinks.wrong]
plugin = "jsonl"
filters = ["topic==/tasks/exit"]

[event_sinks.right]
plugin = "jsonl"
path = "{tmp_path / "right"}"
"""
    with PrivateDaemon(config) as daemon:
        daemon.ctr("namespaces", "create", daemon.namespace, check=True)
        until(lambda: len(lines(tmp_path / "right")) == 1)
        until(lambda: "column 8: expected a value" in {row["name"]: row["error"] for row in sinks(daemon)}["wrong"])


def sinks(daemon: PrivateDaemon) -> list[dict[str, Any]]:
    text = daemon.imod("events", "--sinks", "-o", "json", check=True).stdout
    return [json.loads(line) for line in text.splitlines()]


SLEEPER = """
import os, time
from intermodal_core.plugin import Plugin
class Sleeper:
    filters = ()
    def __init__(self, root): self.root = root
    def deliver(self, events):
        if not os.path.exists(f"{self.root}/open"): raise ConnectionRefusedError("not yet")
        with open(f"{self.root}/heard", "a") as file:
            file.writelines(event.json().decode() + "\\n" for event in events)
    def lost(self, first, last):
        if not os.path.exists(f"{self.root}/open"): raise ConnectionRefusedError("not yet")
        with open(f"{self.root}/lost", "a") as file: file.write(f"{first} {last}\\n")
    def close(self): pass
plugin = Plugin(factory=lambda context: Sleeper(context.root_dir()))
"""


@pytest.mark.slow
def test_what_was_not_kept_long_enough_is_told_to_the_sink(tmp_path: Path) -> None:
    env = install(tmp_path, "event_sinks", "sleeper", SLEEPER)
    config = "journal_bytes = 65536\n[event_sinks.sleeper]\nenabled = true\n"
    with PrivateDaemon(config, start=False) as daemon:
        daemon.start(env)
        daemon.ctr("namespaces", "create", daemon.namespace, check=True)
        for number in range(200):
            daemon.ctr("namespaces", "label", daemon.namespace, f"n={number:0400}", check=True)
        root = daemon.root / "event_sinks/sleeper"
        (root / "open").touch()
        until(
            lambda: bool(lines(root / "heard")) and lines(root / "heard")[-1]["fields"]["labels"]["n"] == f"{199:0400}",
            60,
        )
        first, last = map(int, (root / "lost").read_text().split())
        heard = [line["sequence"] for line in lines(root / "heard")]
        assert heard == list(range(last + 1, last + 1 + len(heard)))
        [row] = sinks(daemon)
        assert row["lost"] == last - first + 1
