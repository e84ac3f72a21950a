"""Ten broken plugins, installed by pip: the daemon serves, and each has a row that says what is wrong and what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests.harness.daemon import PrivateDaemon
from tests.harness.images import NAME, Built
from tests.harness.wheels import Environment, wheel

PLUGIN = """
import msgspec
from intermodal_core.errors import InvalidArgument, PluginSkipped
from intermodal_core.plugin import Plugin
class Config(msgspec.Struct, forbid_unknown_fields=True):
    level: int = 1
def make(context):
    {body}
plugin = Plugin(factory=make, config=Config{options})
"""

#: What is broken: source, or body and options of `PLUGIN`; then state, code, parts of the sentence, and of the remedy.
BROKEN = {
    "imports": ("raise RuntimeError('no good')", "", "failed", "import_error", "RuntimeError: no good", ""),
    "depends": (
        "import not_there_at_all",
        "",
        "failed",
        "missing_dependency",
        "not_there_at_all",
        "install not_there_at_all",
    ),
    "contracts": (
        "",
        ", contract=9",
        "failed",
        "contract_version",
        "contracts-dist 1.0 is written for version 9",
        "release",
    ),
    "cycles": (
        "",
        ", requires=('services.cycled',)",
        "failed",
        "cycle",
        "services.cycle",
        "",
    ),
    "raises": ("raise ValueError('bad day')", "", "failed", "raised", "ValueError: bad day", ""),
    "hangs": ("import time; time.sleep(600)", "", "failed", "hung", "did not return within 1 s", ""),
    "exits": ("import sys; sys.exit(3)", "", "failed", "raised", "SystemExit: 3", ""),
    "ends": ("import os; os._exit(3)", "", "failed", "ended_daemon", "ended the daemon", "imod plugins rescan"),
    "refuses": (
        "raise InvalidArgument(f'level goes to 10, not {context.config.level}')",
        "",
        "failed",
        "invalid_argument",
        "level goes to 10, not 11",
        "[services.refuses] of ",
    ),
    "binary": (
        "raise PluginSkipped('there is no wheel on this machine', 'apt-get install wheel')",
        "",
        "skipped",
        "cannot_run_here",
        "there is no wheel on this machine",
        "apt-get install wheel",
    ),
}
CONFIG = "plugin_deadline = 1\n[services.refuses]\nlevel = 11\n"


def source(body: str, options: str) -> str:
    at_import = body.startswith(("raise RuntimeError", "import not_there"))
    return f"{body}\n" if at_import else PLUGIN.format(body=body or "return object()", options=options)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateDaemon]:
    directory = tmp_path_factory.mktemp("broken")
    environment = Environment(directory / "venv")
    wheels = [
        wheel(
            directory,
            f"{name}-dist",
            {f"{name}_plugin.py": source(body, options)},
            {f"services.{name}": f"{name}_plugin:plugin"},
        )
        for name, (body, options, *_) in BROKEN.items()
    ]
    other = source("", ", requires=('services.cycles',)")
    wheels.append(
        wheel(directory, "cycled-dist", {"cycled_plugin.py": other}, {"services.cycled": "cycled_plugin:plugin"})
    )
    wheels += [
        wheel(directory, owner, {f"{owner}_owner.py": source("", "")}, {"services.twin": f"{owner}_owner:plugin"})
        for owner in ("first", "second")
    ]
    no_kind = "raise RuntimeError('no kind at all')\n"
    wheels.append(wheel(directory, "kinds-dist", {"kinds_plugin.py": no_kind}, {"kinds.wheels": "kinds_plugin:WHEELS"}))
    environment.install(*wheels)
    with PrivateDaemon(CONFIG, command=environment.command, start=False) as daemon:
        ended = 0
        while True:
            try:
                daemon.start()
                break
            except RuntimeError:
                ended += 1
                assert ended < 3, daemon.tail()
        assert ended == 2, "an end is put down to a plugin when it is the second in a row"
        yield daemon


def test_the_daemon_serves(broken: PrivateDaemon, busybox: Built) -> None:
    broken.imod("images", "import", str(busybox.path), check=True)
    assert broken.imod("run", "--rm", NAME, "echo", "hello", check=True).stdout == "hello\n"
    broken.ctr("version", check=True)
    assert "the kind wheels of kinds-dist cannot be had: RuntimeError: no kind at all" in broken.log.read_text()
    assert re.search(r"plugins: \d+ available, 1[0-9] failed, \d+ ready, \d+ skipped", broken.log.read_text())


@pytest.mark.parametrize("name", BROKEN)
def test_each_row_is_right(broken: PrivateDaemon, name: str) -> None:
    _, _, state, code, words, remedy = BROKEN[name]
    rows = {row["name"]: row for row in json.loads(broken.imod("plugins", "ls", "-o", "json", check=True).stdout)}
    row = rows[name]
    assert (row["state"], row["code"], row["distribution"]) == (state, code, f"{name}-dist")
    assert words in row["reason"]
    assert remedy in f"{row['reason']}; {row['remedy']}"
    told = broken.imod("plugins", "why", f"services.{name}", check=True).stdout
    assert told.startswith(f"services.{name} is {state} ({code}): ")
    assert words in told


def test_two_owners_of_a_name(broken: PrivateDaemon) -> None:
    told = broken.imod("plugins", "why", "twin", check=True).stdout
    assert "services.twin is failed (two_owners): twin is offered by first and second; " in told
    assert 'set distribution = "..." in [services.twin] to pick one' in told


def test_stock_ctr_shows_the_same(broken: PrivateDaemon) -> None:
    rows = {
        line.split()[1]: line.split()[-1]
        for line in broken.ctr("plugins", "ls", check=True).stdout.splitlines()
        if line.startswith("io.containerd.grpc.v1")
    }
    assert rows["raises"] == rows["hangs"] == rows["twin"] == "error"
    assert rows["binary"] == "skip"
    assert rows["grpc"] == "ok"
    detailed = broken.ctr("plugins", "ls", "-d", check=True).stdout
    for name, (_, _, _, _, words, _) in BROKEN.items():
        block = re.split(rf"ID: +{name}\n", detailed)[1].split("\nType:")[0]
        assert words in block, block


def test_stock_ctr_shows_what_a_plugin_can_do_and_where_its_data_lies(broken: PrivateDaemon) -> None:
    shown = broken.ctr("plugins", "ls", "-d", "id==overlayfs", check=True).stdout
    assert re.search(r"Capabilities: +\n? *.*rebase", shown), shown
    assert f"{broken.root}/snapshotters/overlayfs" in shown


def test_why_shows_the_path_to_what_is_broken(broken: PrivateDaemon) -> None:
    told = broken.imod("plugins", "why", "cycles", check=True).stdout
    assert re.search(r"what keeps it from being ready: services.cycle[sd] -> .*services.cycle[sd]", told)
    inspected = json.loads(broken.imod("plugins", "inspect", "services.hangs", check=True).stdout)
    assert inspected["entry_point"] == "hangs_plugin:plugin"
    drawn = broken.imod("plugins", "graph", check=True).stdout
    assert "services.hangs [failed]" in drawn
    svg = broken.imod("plugins", "graph", "--svg", check=True).stdout
    assert "<title>services.hangs: failed</title>" in svg
