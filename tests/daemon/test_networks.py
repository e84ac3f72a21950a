"""Networks through the daemon: what `imod run` gives a container, `imod network`, and debts that nobody waits for."""

from __future__ import annotations

import functools
import json
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.daemon import PrivateDaemon
from tests.harness.images import Built
from tests.harness.waiting import until
from tests.harness.world import records, settled

SLEEP = ("busybox", "sleep", "1000")
SECONDS = 20


@pytest.fixture(scope="module")
def shared(busybox: Built) -> Iterator[PrivateDaemon]:
    with PrivateDaemon() as daemon:
        daemon.imod("images", "import", str(busybox.path), check=True)
        yield daemon


@pytest.fixture
def ours(shared: PrivateDaemon) -> Iterator[PrivateDaemon]:
    yield shared
    if names := shared.imod("ps", "-a", "-q", check=True).stdout.split():
        shared.imod("rm", "-f", *names, check=True)
    shared.imod("network", "prune", check=True)
    settled(shared)


def run(daemon: PrivateDaemon, *words: str) -> str:
    return daemon.imod("run", "--rm", *words, check=True).stdout


def addresses(daemon: PrivateDaemon, container: str) -> dict[str, str]:
    rows = [row for row in records(daemon, "attachments") if row["container"] == container]
    return {row["network"]: row["addresses"][0].partition("/")[0] for row in rows}


def default(daemon: PrivateDaemon) -> str:
    name: str = json.loads(daemon.imod("network", "ls", "-o", "json", check=True).stdout)[0]["name"]
    return name


def test_a_container_is_in_the_default_network(ours: PrivateDaemon) -> None:
    shown = run(
        ours,
        "--name",
        "c",
        "--hostname",
        "box",
        "busybox",
        "sh",
        "-c",
        "ip -4 -o addr; ip route; cat /etc/hosts /etc/hostname",
    )
    address = next(line.split()[3] for line in shown.splitlines() if "eth0" in line and "inet" in line)
    assert "default via " in shown
    assert f"{address.partition('/')[0]}\tc box\n" in shown
    assert shown.endswith("box\n")


def test_none_and_host(ours: PrivateDaemon) -> None:
    assert "eth0" not in run(ours, "--net", "none", "busybox", "ip", "-o", "link")
    inside = run(ours, "--net", "host", "busybox", "readlink", "/proc/self/ns/net").strip()
    assert inside == os.readlink("/proc/self/ns/net")
    for words in (
        ("--net", "host", "-p", "80:80"),
        ("--net", "none", "--ip", "10.0.0.9"),
        ("--net", "host", "--net", "none"),
    ):
        done = ours.imod("run", "--rm", *words, "busybox", "true")
        assert done.returncode == 125, words
    assert ours.imod("ps", "-a", "-q", check=True).stdout == ""


def test_containers_of_one_network_find_each_other_by_name(ours: PrivateDaemon) -> None:
    ours.imod("run", "-d", "--name", "first", "--hostname", "one", *SLEEP, check=True)
    ours.imod("run", "-d", "--name", "second", *SLEEP, check=True)
    for source, target in (("second", "first"), ("second", "one"), ("first", "second")):
        pinged = functools.partial(ours.imod, "exec", source, "ping", "-c1", "-W3", target)
        until(lambda: pinged().returncode == 0, SECONDS)  # noqa: B023 - waited for here
    ours.imod("rm", "-f", "second", check=True)
    until(lambda: "second" not in ours.imod("exec", "first", "cat", "/etc/hosts", check=True).stdout, SECONDS)


def test_name_servers(ours: PrivateDaemon) -> None:
    shown = run(ours, "--dns", "192.0.2.1", "--dns", "192.0.2.2", "busybox", "cat", "/etc/resolv.conf")
    assert shown == "nameserver 192.0.2.1\nnameserver 192.0.2.2\n"


def test_an_address_of_ones_own(ours: PrivateDaemon) -> None:
    ours.imod("network", "create", "--subnet", "10.99.1.0/24", "--subnet", "fd99::/64", "own", check=True)
    ours.imod(
        "run",
        "-d",
        "--name",
        "c",
        "--net",
        "own",
        "--ip",
        "10.99.1.77",
        "--mac",
        "02:00:00:00:00:42",
        *SLEEP,
        check=True,
    )
    shown = ours.imod("exec", "c", "ip", "addr", "show", "eth0", check=True).stdout
    assert "10.99.1.77/24" in shown
    assert "fd99::2/64" in shown
    assert "02:00:00:00:00:42" in shown
    again = ours.imod("run", "--rm", "--net", "own", "--ip", "10.99.1.77", "busybox", "true")
    assert "leased to another container" in again.stderr
    ours.imod("kill", "c", check=True)
    until(lambda: records(ours, "attachments") == [], SECONDS)
    ours.imod("start", "c", check=True)
    assert addresses(ours, "c") == {"own": "10.99.1.77"}


def test_ports(ours: PrivateDaemon) -> None:
    server = "while :; do echo hello | nc -l -p 80; done"
    ours.imod(
        "run",
        "-d",
        "--name",
        "web",
        "-p",
        "127.0.0.1:18181:80",
        "-p",
        "18182-18183:80-81/udp",
        "busybox",
        "sh",
        "-c",
        server,
        check=True,
    )
    until(
        lambda: (
            run(ours, "--net", "host", "busybox", "sh", "-c", "nc -w 2 127.0.0.1 18181 </dev/null || true") == "hello\n"
        ),
        SECONDS,
    )
    busy = ours.imod("run", "--rm", "--name", "other", "-p", "127.0.0.1:18181:80", "busybox", "true")
    assert busy.returncode == 125
    assert "18181/tcp is in use by the container" in busy.stderr
    ours.imod("rm", "-f", "web", check=True)
    ours.imod("run", "--rm", "-p", "127.0.0.1:18181:80", "busybox", "true", check=True)  # given back, or about to be


def test_several_networks(ours: PrivateDaemon) -> None:
    for name in ("left", "right"):
        ours.imod("network", "create", name, check=True)
    ours.imod("run", "-d", "--name", "c", "--net", "left", "--net", "right", *SLEEP, check=True)
    ours.imod("run", "-d", "--name", "r", "--net", "right", *SLEEP, check=True)
    assert set(addresses(ours, "c")) == {"left", "right"}
    assert ours.imod("exec", "c", "ip", "-o", "route", "show", "default", check=True).stdout.count("default") == 1
    refused = ours.imod("network", "rm", "right")
    assert "in use by c, r" in refused.stderr
    ours.imod("network", "disconnect", "right", "c", check=True)
    assert "eth1" not in ours.imod("exec", "c", "ip", "-o", "link", check=True).stdout
    assert ours.imod("network", "disconnect", "left", "c").returncode == 125, "its last one"
    given = ours.imod("network", "connect", "right", "c", check=True).stdout.strip()
    assert given.partition("/")[0] == addresses(ours, "c")["right"]
    assert "is in the network right already" in ours.imod("network", "connect", "right", "c").stderr
    until(lambda: "c" in ours.imod("exec", "r", "cat", "/etc/hosts", check=True).stdout.split(), SECONDS)
    ours.imod("kill", "c", check=True)
    ours.imod("wait", "c")
    ours.imod("start", "c", check=True)
    assert set(addresses(ours, "c")) == {"left", "right"}, "at each start"


def test_networks_are_listed_shown_and_pruned(ours: PrivateDaemon) -> None:
    ours.imod("network", "create", "kept", check=True)
    ours.imod("network", "create", "unused", check=True)
    ours.imod("create", "--name", "c", "--net", "kept", *SLEEP, check=True)
    names = ours.imod("network", "ls", "-q", check=True).stdout.split()
    assert names == [default(ours), "kept", "unused", "host", "none"]
    [shown] = json.loads(ours.imod("network", "inspect", "kept", check=True).stdout)
    assert shown["document"]["plugins"][0]["type"] == "bridge"
    assert shown["attachments"] == []
    assert ours.imod("network", "prune", check=True).stdout == "unused\n"
    for words in (("rm", "host"), ("rm", "nobody"), ("inspect", "nobody"), ("create", "kept"), ("create", "host")):
        assert ours.imod("network", *words).returncode == 125, words
    missing = ours.imod("run", "--rm", "--net", "nobody", "busybox", "true")
    assert "there is no network nobody; there are: " in missing.stderr


def test_what_a_chain_took_is_told(ours: PrivateDaemon) -> None:
    """Each type and verb with its seconds, as an event."""
    run(ours, "--name", "told", "busybox", "true")
    lines = (ours.root / "events").glob("*")
    text = b"".join(path.read_bytes() for path in lines)
    assert b"/networks/attach" in text
    assert b"bridge ADD" in text
    until(lambda: b"/networks/detach" in b"".join(p.read_bytes() for p in (ours.root / "events").glob("*")), SECONDS)


# Debts.


def broken(daemon: PrivateDaemon, verb: str) -> Path:
    """A network whose last plugin fails at a verb until the file that is returned is there."""
    directory = daemon.base / "bin"
    directory.mkdir()
    ok = directory / "ok"
    plugin = directory / "moody"
    result = '{"cniVersion": "1.0.0", "ips": [{"address": "10.98.0.2/24"}]}'
    plugin.write_text(
        f"#!/bin/sh\ncat >/dev/null\n[ $CNI_COMMAND = {verb} ] && [ ! -e {ok} ] && sleep 1000\n"
        f"[ $CNI_COMMAND = ADD ] && echo '{result}'\nexit 0\n"
    )
    plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR)
    lists = daemon.base / "net.d"
    lists.mkdir()
    document = {"cniVersion": "1.0.0", "name": "moody", "plugins": [{"type": "moody"}]}
    (lists / "moody.conflist").write_text(json.dumps(document))
    return ok


@pytest.fixture
def mood(busybox: Built) -> Iterator[PrivateDaemon]:
    daemon = PrivateDaemon(start=False)
    config = daemon.config_file.read_text()
    section = f'[networks.cni]\ndirectories = ["{daemon.base}/net.d"]\nbin = ["{daemon.base}/bin"]\nexecutable_deadline = 1.0\n'
    daemon.config_file.write_text(f"{config}\n{section}")
    with daemon:
        daemon.start()
        daemon.imod("images", "import", str(busybox.path), check=True)
        yield daemon


def owed(daemon: PrivateDaemon) -> list[dict[str, Any]]:
    return [row for row in records(daemon, "attachments") if row["state"] == "owed"]


def test_removing_does_not_wait_for_a_network_that_hangs(mood: PrivateDaemon) -> None:
    """DEL is tried again with what was recorded at ADD, also by the next daemon, until it succeeds."""
    ok = broken(mood, "DEL")
    mood.imod("run", "-d", "--name", "c", "--net", "moody", *SLEEP, check=True)
    (mood.base / "net.d/moody.conflist").unlink()
    began = time.monotonic()
    mood.imod("rm", "-f", "c", check=True)
    assert mood.imod("ps", "-a", "-q", check=True).stdout == ""
    taken = time.monotonic() - began
    until(lambda: owed(mood) != [], SECONDS)
    [row] = owed(mood)
    assert "moody DEL" in row["error"]
    assert row["tries"] >= 1
    # The namespace goes whatever the network does.
    until(lambda: not list((mood.state / "managers/networks/netns").glob("*")), SECONDS)
    mood.restart()
    assert owed(mood) != []
    ok.touch()
    until(lambda: owed(mood) == [], 60)
    settled(mood)
    assert taken < 60


def test_a_network_that_hangs_fails_the_start_and_leaves_nothing(mood: PrivateDaemon) -> None:
    broken(mood, "ADD")
    done = mood.imod("run", "--rm", "--net", "moody", "busybox", "true")
    assert done.returncode == 125
    assert "moody ADD" in done.stderr
    assert "has not ended within 1" in done.stderr
    settled(mood)
