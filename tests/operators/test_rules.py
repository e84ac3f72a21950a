"""Rules, defaults and pinning with real containers: which backend a container gets, and that it keeps it."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from intermodal_policy.rules import Defaults

from tests.harness.daemon import PrivateDaemon
from tests.harness.images import NAME, Built
from tests.harness.waiting import until

CAREFUL = '[runtimes.careful]\nplugin = "runc"\nno_new_keyring = true\n'


def daemon_with(config: str, busybox: Built) -> PrivateDaemon:
    daemon = PrivateDaemon(config)
    daemon.imod("images", "import", str(busybox.path), check=True)
    return daemon


def configure(daemon: PrivateDaemon, config: str) -> None:
    """Another file, with what the harness needs in it."""
    daemon.config_file.write_text(f'version = 1\n{config}\n[managers.tasks]\ncgroup_parent = "{daemon.namespace}"\n')


def inspect(daemon: PrivateDaemon, container: str) -> dict[str, Any]:
    return dict(json.loads(daemon.imod("inspect", container, check=True).stdout)[0])


def create_by_ctr(daemon: PrivateDaemon, name: str, *options: str) -> dict[str, Any]:
    daemon.ctr("containers", "create", *options, NAME, name, check=True)
    return dict(json.loads(daemon.ctr("containers", "info", name, check=True).stdout))


# Rules.


@pytest.mark.parametrize(
    "config", ['[[rules]]\nnamespace = "test-*"\nsnapshotter = "native"\n', '[defaults]\nsnapshotter = "native"\n']
)
def test_stock_ctr_follows_the_snapshotter_of_rules_and_defaults(config: str, busybox: Built) -> None:
    with daemon_with(config, busybox) as daemon:
        assert "containerd.io/defaults/snapshotter=native" in daemon.ctr("namespaces", "ls", check=True).stdout
        assert create_by_ctr(daemon, "c")["Snapshotter"] == "native"
        assert create_by_ctr(daemon, "named", "--snapshotter", "overlayfs")["Snapshotter"] == "overlayfs"
        assert daemon.ctr("run", "--rm", NAME, "r", "echo", "hello", check=True).stdout == "hello\n"
        daemon.ctr("namespaces", "label", daemon.namespace, "containerd.io/defaults/snapshotter=overlayfs", check=True)
        assert create_by_ctr(daemon, "labelled")["Snapshotter"] == "overlayfs", "what a person says of a namespace wins"
        daemon.imod("create", "--name", "i", NAME, check=True)
        assert inspect(daemon, "i")["snapshotter"] == "overlayfs", "for everybody"


def test_a_runtime_that_a_client_names_wins_unless_a_rule_says_force(busybox: Built) -> None:
    rule = '[[rules]]\nnamespace = "test-*"\nruntime = "careful"\n'
    with daemon_with(f"{rule}{CAREFUL}", busybox) as daemon:
        create_by_ctr(daemon, "stock")  # ctr always names one
        assert inspect(daemon, "stock")["choice"]["instance"] == "runc"
        daemon.imod("create", "--name", "mine", NAME, check=True)
        choice = inspect(daemon, "mine")["choice"]
        assert (choice["instance"], choice["plugin"]) == ("careful", "runc")
        assert choice["why"] == f"the rule 1 of {daemon.config_file}:2"
        configure(daemon, f"{rule}force = true\n{CAREFUL}")
        daemon.imod("config", "reload", check=True)
        info = create_by_ctr(daemon, "forced")
        assert info["Runtime"]["Name"] == "io.containerd.runc.v2", "the client's own record is as it wrote it"
        forced = inspect(daemon, "forced")["choice"]
        assert (forced["instance"], forced["options"]["no_new_keyring"]) == ("careful", True)
        assert forced["why"] == f"the rule 1, by force, of {daemon.config_file}:2"
        assert daemon.ctr("run", "--rm", NAME, "r", "echo", "hello", check=True).stdout == "hello\n"


def test_rules_by_image_label_and_runtime_and_their_explanation(busybox: Built) -> None:
    rules = (
        '[[rules]]\nlabel = { tier = "web" }\nruntime = "careful"\n'
        '[[rules]]\nwith_runtime = "careful"\nsnapshotter = "native"\n'
        '[[rules]]\nimage = "*/busybox:*"\nnetwork = "host"\n'
    )
    with daemon_with(f"{rules}{CAREFUL}", busybox) as daemon:
        daemon.imod("create", "--name", "web", "--label", "tier=web", NAME, check=True)
        daemon.imod("create", "--name", "plain", NAME, check=True)
        web, plain = inspect(daemon, "web"), inspect(daemon, "plain")
        assert (web["runtime"], web["snapshotter"], web["network"]) == ("careful", "native", "host")
        assert (plain["runtime"], plain["snapshotter"], plain["network"]) == ("runc", "overlayfs", "host")
        done = daemon.imod("run", "--rm", "--runtime", "careful", NAME, "echo", "there", check=True)
        assert done.stdout == "there\n", "what is missing of an image is unpacked for the snapshotter of its runtime"
        told = daemon.imod("config", "explain", "-l", "tier=web", "--net", "none", "busybox", check=True).stdout
        file = daemon.config_file
        assert told == (
            f"runtime: careful\n  the rule 1 of {file}:2: careful (counts)\n  the built-in default: runc (comes too late)\n"
            f"snapshotter: native\n  the rule 2 of {file}:5: native (counts)\n"
            "  the built-in default: overlayfs (comes too late)\n"
            f"network: none\n  named by the client: none (counts)\n  the rule 3 of {file}:8: host (comes too late)\n"
            f"  the built-in default: {Defaults().network} (comes too late)\n"
            "verification: off\n  the built-in default: off (counts)\n"
        )


# Pinning.


def runtime_that_tells(path: Path, log: Path) -> Path:
    """A runc that notes that it was called."""
    path.write_text(f'#!/bin/sh\necho "$*" >>{log}\nexec runc "$@"\n')
    path.chmod(0o755)
    return path


def test_a_container_keeps_the_runtime_that_it_was_made_with(tmp_path: Path, busybox: Built) -> None:
    logs = {name: tmp_path / f"{name}.log" for name in ("old", "new")}
    binaries = {name: runtime_that_tells(tmp_path / name, log) for name, log in logs.items()}

    def section(name: str) -> str:
        return f'[defaults]\nruntime = "mine"\n[runtimes.mine]\nplugin = "runc"\nbinary = "{binaries[name]}"\n'

    def calls(name: str) -> int:
        return logs[name].read_text().count(" create ") if logs[name].exists() else 0

    with daemon_with(section("old"), busybox) as daemon:
        daemon.imod("create", "--name", "kept", NAME, "sleep", "600", check=True)
        daemon.imod("run", "-d", "--name", "runs", NAME, "sleep", "600", check=True)
        pid = inspect(daemon, "runs")["pid"]
        assert (calls("old"), calls("new")) == (1, 0)
        assert inspect(daemon, "kept")["choice"]["options"]["binary"] == str(binaries["old"])

        configure(daemon, section("new"))
        assert "[runtimes.mine]" in daemon.imod("config", "reload", check=True).stdout
        daemon.imod("start", "kept", check=True)
        assert (calls("old"), calls("new")) == (2, 0)
        assert daemon.imod("run", "--rm", NAME, "echo", "x", check=True).stdout == "x\n"
        assert (calls("old"), calls("new")) == (2, 1)
        assert inspect(daemon, "runs")["pid"] == pid
        assert daemon.imod("exec", "runs", "echo", "alive", check=True).stdout == "alive\n"
        told = daemon.imod("runtimes", check=True).stdout
        assert f"mine     ready  {binaries['new']}" in told
        assert "made with other options or another version: " in told
        assert "A switch of the default leaves 2 on mine until they are removed." in told

        configure(daemon, "")  # the runtime is gone from the config
        daemon.restart()
        assert inspect(daemon, "runs")["pid"] == pid
        assert f"mine     pinned  {binaries['old']}" in daemon.imod("runtimes", check=True).stdout
        refused = daemon.imod("run", "--rm", "--runtime", "mine", NAME, "true")
        assert "there is no runtime mine (named by the client)" in refused.stderr
        daemon.imod("stop", "-t", "0", "kept", check=True)
        daemon.imod("start", "kept", check=True)
        assert (calls("old"), calls("new")) == (3, 1)
        daemon.imod("rm", "-f", "kept", "runs", check=True)
        assert "pinned" not in daemon.imod("runtimes", check=True).stdout


@pytest.mark.skipif(not shutil.which("containerd-shim-runc-v2"), reason="needs containerd's shim")
@pytest.mark.slow
def test_a_shim_that_is_named_by_its_path(busybox: Built) -> None:
    shim = str(shutil.which("containerd-shim-runc-v2"))
    with daemon_with("", busybox) as daemon:
        assert daemon.imod("run", "--rm", "--runtime", shim, NAME, "echo", "x", check=True).stdout == "x\n"
        assert daemon.ctr("run", "--rm", "--runtime", shim, NAME, "c", "echo", "y", check=True).stdout == "y\n"
        daemon.imod("run", "-d", "--name", "lives", "--runtime", shim, NAME, "sleep", "600", check=True)
        choice = inspect(daemon, "lives")["choice"]
        assert (choice["instance"], choice["plugin"], choice["binary"]) == (Path(shim).name, "shimv2", shim)
        daemon.restart()
        assert daemon.imod("exec", "lives", "echo", "z", check=True).stdout == "z\n"
        row = {each["name"]: each for each in json.loads(daemon.imod("runtimes", "-o", "json", check=True).stdout)}[
            Path(shim).name
        ]
        assert (row["state"], row["binary"], row["containers"], row["running"]) == ("pinned", shim, 1, 1)
        daemon.imod("rm", "-f", "lives", check=True)


def test_a_swap_of_the_defaults_touches_no_running_container(busybox: Built) -> None:
    with daemon_with("", busybox) as daemon:
        daemon.imod(
            "run",
            "-d",
            "--name",
            "old",
            NAME,
            "sh",
            "-c",
            "trap 'exit 7' TERM; while :; do sleep 0.1; done",
            check=True,
        )
        before = inspect(daemon, "old")
        configure(
            daemon, f'[defaults]\nruntime = "careful"\nsnapshotter = "native"\n{CAREFUL}[snapshotters.overlayfs]\n'
        )
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: "in force now: [defaults], [runtimes.careful]" in daemon.log.read_text())
        daemon.imod("run", "-d", "--name", "new", NAME, "sleep", "600", check=True)
        new, after = inspect(daemon, "new"), inspect(daemon, "old")
        assert (new["runtime"], new["snapshotter"]) == ("careful", "native")
        assert {key: after[key] for key in ("pid", "status", "runtime", "snapshotter")} == {
            key: before[key] for key in ("pid", "status", "runtime", "snapshotter")
        }
        daemon.restart()
        assert inspect(daemon, "old")["pid"] == before["pid"]
        assert daemon.imod("exec", "old", "cat", "/proc/1/comm", check=True).stdout == "sh\n"
        daemon.imod("rm", "-f", "old", "new", check=True)


# What cannot be had.


def test_a_runtime_that_is_not_there_says_what_was_sought_and_where(busybox: Built) -> None:
    config = (
        '[runtimes.lost]\nplugin = "runc"\nbinary = "no-such-runc"\n[[rules]]\nimage = "*none*"\nnetwork = "none"\n'
    )
    with daemon_with(config, busybox) as daemon:

        def said(*options: str) -> str:
            done = daemon.imod("run", "--rm", *options, NAME, "true")
            assert done.returncode == 125
            return done.stderr

        lost = said("--runtime", "lost")
        assert "the runtime lost (named by the client) cannot be used" in lost
        assert "/usr/bin/no-such-runc" in lost
        assert f"its options are those of {daemon.config_file}:2" in lost
        assert "is a relative path: give an absolute one" in said("--runtime", "bin/runc")
        assert 'there is no runtime rucn (named by the client): did you mean "runc"?' in said("--runtime", "rucn")
        nope = said("--runtime", "io.containerd.nope.v1")
        assert "its shim containerd-shim-nope-v1 is not in /" in nope
        assert (
            daemon.imod("run", "--rm", "--runtime", "io.containerd.runc.v2", NAME, "echo", "x", check=True).stdout
            == "x\n"
        )
        stock = daemon.ctr("run", "--rm", "--runtime", "io.containerd.nope.v1", NAME, "c", "true")
        assert "containerd-shim-nope-v1 is not in /" in stock.stderr
        rows = json.loads(daemon.imod("runtimes", "-o", "json", check=True).stdout)
        assert {row["name"]: row["state"] for row in rows}["lost"] == "skipped"


def test_an_image_of_another_namespace_is_named(busybox: Built) -> None:
    with daemon_with("", busybox) as daemon:
        done = daemon.imod("-n", "elsewhere", "run", "--rm", "busybox", "true")
        assert f"it is in the namespace {daemon.namespace}" in done.stderr
        done = daemon.ctr("--namespace", "elsewhere", "images", "label", NAME, "a=b")
        assert f"it is in the namespace {daemon.namespace}" in done.stderr


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            '[defaults]\nruntime = "rnuc"\n',
            'config.toml:3: [defaults] runtime: there is no runtime "rnuc"; did you mean "runc"?',
        ),
        ("[runtimes.runc]\nbinray = 1\n", 'config.toml:3: [runtimes.runc] has no key "binray"; did you mean "binary"?'),
        ("[snapshotters.native]\nsync = 3\n", "config.toml:3: snapshotters.native.sync: expected true or false, got"),
        ("[snapshotters.nativ]\n", 'config.toml:2: no plugin "nativ" of the kind snapshotters is installed'),
        ("[[rules]]\n", "config.toml:2: the rule 1 says nothing"),
        ("[defaluts]\n", 'did you mean "defaults"?'),
    ],
)
@pytest.mark.slow
def test_a_mistake_stops_the_start_and_permissive_lets_it_pass(config: str, words: str) -> None:
    with PrivateDaemon(config, start=False) as daemon:
        with pytest.raises(RuntimeError) as caught:
            daemon.start()
        assert words in str(caught.value)
        daemon._arguments.append("--permissive")
        daemon.start()
        assert words in daemon.log.read_text()
        shown = daemon.imod("config", "show", check=True).stdout
        assert any(line.startswith("# not heeded: ") and words in line for line in shown.splitlines())
        daemon.ctr("version", check=True)
