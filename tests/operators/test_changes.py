"""A daemon whose config and plugins change while it serves."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.harness.daemon import PrivateDaemon
from tests.harness.images import NAME, Built
from tests.harness.site import install
from tests.harness.waiting import until
from tests.harness.wheels import Environment, wheel
from tests.operators.test_rules import configure, daemon_with, inspect

NETWORK = """
from intermodal_core.contracts.networks import AttachResult
from intermodal_core.plugin import Plugin

class Quiet:
    def attach(self, attachment): return AttachResult("new")
    def detach(self, attachment, result): ...
    def check(self, attachment, result): ...
    def gc(self, live): ...

plugin = Plugin(factory=lambda context: Quiet())
"""

RESTART = "needs a restart of the daemon, which touches no container: "


def told(daemon: PrivateDaemon, words: str) -> bool:
    return any("the config stays as it is: " in line and words in line for line in daemon.log.read_text().splitlines())


def states(daemon: PrivateDaemon) -> dict[str, str]:
    rows = json.loads(daemon.imod("plugins", "ls", "-o", "json", check=True).stdout)
    return {f"{row['kind']}.{row['name']}": row["state"] for row in rows}


# The config.


def test_the_written_default_config_boots_and_changes_nothing(busybox: Built) -> None:
    imod = Path(sys.executable).parent / "imod"
    text = subprocess.run([imod, "config", "default"], capture_output=True, text=True, timeout=60, check=True).stdout
    with PrivateDaemon() as plain, PrivateDaemon(start=False) as daemon:
        daemon.config_file.write_text(text.replace('cgroup_parent = ""', f'cgroup_parent = "{daemon.namespace}"'))
        daemon.start()
        assert states(daemon) == states(plain)
        daemon.imod("images", "import", str(busybox.path), check=True)
        assert daemon.imod("run", "--rm", NAME, "echo", "x", check=True).stdout == "x\n"
        assert daemon.ctr("run", "--rm", NAME, "c", "echo", "y", check=True).stdout == "y\n"
        shown = daemon.imod("config", "show", "--origin", check=True).stdout
        assert f'binary = "runc"  # {daemon.config_file}:' in shown
        assert 'root = "' in shown
        assert "# flag --root" in shown


def test_sighup_with_a_mistake_changes_nothing_and_never_ends_the_daemon() -> None:
    with PrivateDaemon() as daemon:
        pid = daemon.pid
        for text, words in (
            ("log_level = [\n", "not TOML"),
            ("log_lvel = 3\n", "config.toml:2: the core has no key"),
            ('log_level = "debug"\n[networks.nnoe]\n', "config.toml:3: no plugin"),
        ):
            configure(daemon, text)
            assert daemon.process is not None
            daemon.process.send_signal(signal.SIGHUP)
            until(partial(told, daemon, words))
            refused = daemon.imod("config", "reload")
            assert refused.returncode == 125
            assert words in refused.stderr
        assert daemon.pid == pid
        assert 'log_level = "info"' in daemon.imod("config", "show", check=True).stdout


def test_a_reload_says_what_it_did_and_what_needs_a_restart(busybox: Built) -> None:
    with daemon_with("", busybox) as daemon:
        daemon.imod("run", "-d", "--name", "c", NAME, "sleep", "600", check=True)
        before = inspect(daemon, "c")["pid"]
        configure(
            daemon,
            'log_level = "debug"\njournal_bytes = 70000\n[snapshotters.overlayfs]\nsync = false\n'
            '[snapshotters.native]\nsync = false\n[runtimes.extra]\nplugin = "runc"\n[services.grpc]\ngrace = 1.0\n',
        )
        assert daemon.imod("config", "reload", check=True).stdout.splitlines() == [
            "log_level",
            "[snapshotters.overlayfs]",
            "[snapshotters.native]",
            "[runtimes.extra]",
            f"{RESTART}journal_bytes ({daemon.config_file}:3)",
            f"{RESTART}[services.grpc] ({daemon.config_file}:10)",
        ]
        assert inspect(daemon, "c")["pid"] == before
        assert daemon.imod("exec", "c", "echo", "x", check=True).stdout == "x\n"
        assert daemon.imod("run", "--rm", "--runtime", "extra", NAME, "echo", "y", check=True).stdout == "y\n"
        shown = daemon.imod("config", "show", "--origin", check=True).stdout
        assert f"sync = false  # {daemon.config_file}:5" in shown
        assert "journal_bytes = 67108864" in shown, "what is in force"
        assert "plugins.reload" not in daemon.imod("plugins", "reload", "overlayfs", check=True).stdout
        refused = daemon.imod("plugins", "reload", "services.grpc")
        assert "restart the daemon, which touches no container" in refused.stderr
        daemon.imod("rm", "-f", "c", check=True)


# Plugins.


@pytest.mark.slow
def test_a_plugin_installed_while_the_daemon_serves(tmp_path: Path, busybox: Built) -> None:
    environment = Environment(tmp_path / "venv")
    with PrivateDaemon(command=environment.command) as daemon:
        daemon.imod("images", "import", str(busybox.path), check=True)
        assert daemon.imod("plugins", "rescan", check=True).stdout == "nothing new\n"
        first = wheel(tmp_path, "quiet-dist", {"quiet.py": NETWORK}, {"networks.quiet": "quiet:plugin"})
        environment.install(first)
        assert daemon.imod("plugins", "rescan", check=True).stdout == "networks.quiet is new\n"
        daemon.imod("run", "--rm", "--net", "quiet", NAME, "true", check=True)

        # Installed as editable: a path line takes it in, a line of code does not.
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "still.py").write_text(NETWORK)
        info = elsewhere / "still_dist-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: still-dist\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[intermodal.networks]\nstill = still:plugin\n")
        (environment.site / "still.pth").write_text(f"{elsewhere}\n")
        (environment.site / "hooked.pth").write_text("import sys\n")
        assert daemon.imod("plugins", "rescan", check=True).stdout.splitlines() == [
            "networks.still is new",
            f"{RESTART}{environment.site}/hooked.pth has a line of code, which Python runs at its start alone",
        ]
        daemon.imod("run", "--rm", "--net", "still", NAME, "true", check=True)

        newer = wheel(tmp_path, "quiet-dist", {"quiet.py": NETWORK}, {"networks.quiet": "quiet:plugin"}, "2.0")
        environment.install(newer)
        assert (
            "networks.quiet is loaded from quiet-dist 1.0, and 2.0 is installed"
            in daemon.imod("plugins", "rescan", check=True).stdout
        )
        (environment.site / "hooked.pth").unlink()
        (environment.site / "still.pth").unlink()
        daemon.restart()
        assert "networks.still" not in states(daemon)
        environment.uninstall("quiet-dist")
        assert daemon.imod("plugins", "rescan", check=True).stdout == "networks.quiet is gone\n"


@pytest.mark.slow
def test_every_backend_that_is_in_use_can_be_replaced(busybox: Built) -> None:
    with daemon_with("", busybox) as daemon:
        daemon.imod("run", "-d", "--name", "c", NAME, "sleep", "600", check=True)
        for plugin in (row for row, state in states(daemon).items() if state == "ready"):
            done = daemon.imod("plugins", "reload", plugin)
            if plugin.startswith(("managers.", "services.", "metadata.")):
                assert "restart the daemon, which touches no container" in done.stderr
            else:
                assert (done.returncode, done.stdout, done.stderr) == (0, f"{plugin}\n", "")
        assert daemon.imod("exec", "c", "echo", "x", check=True).stdout == "x\n"
        assert daemon.imod("run", "--rm", "--snapshotter", "native", NAME, "echo", "y", check=True).stdout == "y\n"
        daemon.imod("stop", "-t", "0", "c", check=True)
        daemon.imod("start", "c", check=True)
        daemon.imod("rm", "-f", "c", check=True)
        daemon.imod("images", "import", str(busybox.path), check=True)


@pytest.mark.slow
def test_a_backend_moves_into_a_process_and_back(busybox: Built) -> None:
    with daemon_with("", busybox) as daemon:
        daemon.imod("run", "--rm", "--snapshotter", "native", NAME, "true", check=True)
        for isolation in ("process", "thread"):
            configure(daemon, f'[snapshotters.native]\nisolation = "{isolation}"\n')
            assert daemon.imod("config", "reload", check=True).stdout == "[snapshotters.native]\n"
            assert daemon.imod("run", "--rm", "--snapshotter", "native", NAME, "echo", "x", check=True).stdout == "x\n"


HOOK = """
import msgspec
from intermodal_core.hooks import hookimpl
from intermodal_core.plugin import Plugin

class Config(msgspec.Struct, forbid_unknown_fields=True):
    words: str = "old"

class Adds:
    def __init__(self, words): self.words = words

    @hookimpl
    def adjust_spec(self, spec):
        spec["process"]["env"].append(f"WORDS={self.words}")
        return spec

plugin = Plugin(factory=lambda context: Adds(context.config.words), config=Config)
"""


def test_a_plugin_of_hooks_gets_new_options(tmp_path: Path, busybox: Built) -> None:
    with PrivateDaemon(start=False) as daemon:
        daemon.start(install(tmp_path, "hooks", "adds", HOOK))
        daemon.imod("images", "import", str(busybox.path), check=True)
        say = ["run", "--rm", NAME, "sh", "-c", "echo $WORDS"]
        assert daemon.imod(*say, check=True).stdout == "old\n"
        configure(daemon, '[hooks.adds]\nwords = "new"\n')
        assert daemon.imod("config", "reload", check=True).stdout == "[hooks.adds]\n"
        assert daemon.imod(*say, check=True).stdout == "new\n"
        configure(daemon, "[hooks.adds]\nenabled = false\n")
        assert daemon.imod("config", "reload", check=True).stdout.startswith(RESTART)
