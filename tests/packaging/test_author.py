"""A plugin's author: types and contracts from the wheel of intermodal-core, and a wheel that an unmodified daemon uses."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.daemon import PrivateDaemon
from tests.harness.images import Built
from tests.packaging.conftest import build_wheel, declared, needed_by
from tests.repository.tree import ROOT

SAMPLES = sorted((ROOT / "tests/typing").glob("*.py"))
EXAMPLE = ROOT / "examples/scratch"


def checked(python: Path, sources: list[Path], directory: Path) -> None:
    """Strictly, without this project's settings, and with every `type: ignore` needed."""
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull]
    command += ["--cache-dir", str(directory / "cache"), "--python-executable", str(python), *map(str, sources)]
    environment = {**os.environ, "MYPYPATH": str(EXAMPLE / "src")}
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_types_from_the_authors_side(environment: Callable[..., Path], wheels: dict[str, Path], tmp_path: Path) -> None:
    core = wheels["intermodal-core"]
    third = {each.metadata["Name"]: each for each in declared([core]) + needed_by(["pytest", "hypothesis"])}
    python = environment([core], third.values()) / "python"
    checked(python, SAMPLES, tmp_path)
    checked(python, [EXAMPLE / "src/scratch_plugins", *(EXAMPLE / "tests").glob("*.py")], tmp_path)


def example(place: Path, **changes: str) -> Path:
    """The wheel of the example, built in a copy below `place`; `changes` are words of its plugin.py and what is there instead."""
    source = place / "source"
    shutil.copytree(EXAMPLE, source)
    file = source / "src/scratch_plugins/plugin.py"
    text = file.read_text()
    for word, instead in changes.items():
        assert word in text
        text = text.replace(word, instead)
    file.write_text(text)
    return build_wheel(source, place)


@pytest.fixture
def daemon_with(
    environment: Callable[..., Path], wheels: dict[str, Path], tmp_path: Path
) -> Iterator[Callable[..., PrivateDaemon]]:
    """Starts a daemon from the wheels alone, with the example's beside them."""
    made: list[PrivateDaemon] = []

    def start(config: str = "", **changes: str) -> PrivateDaemon:
        binaries = environment([*wheels.values(), example(tmp_path, **changes)], declared(wheels.values()))
        made.append(PrivateDaemon(config, command=[str(binaries / "intermodald")]))
        return made[-1]

    yield start
    for daemon in made:
        daemon.stop()


def rows(daemon: PrivateDaemon) -> dict[str, dict[str, object]]:
    plugins = json.loads(daemon.imod("plugins", "ls", "-o", "json", check=True).stdout)
    return {f"{plugin['kind']}.{plugin['name']}": plugin for plugin in plugins}


def test_an_unmodified_daemon_uses_it(daemon_with: Callable[..., PrivateDaemon], busybox: Built) -> None:
    """Also its options of the version before, of which the log tells."""
    daemon = daemon_with("[snapshotters.scratch]\nlimit_mb = 100\n[hooks.scratch]\nlimit = 4096\n")
    daemon.imod("images", "import", str(busybox.path), check=True)
    words = ["run", "--rm", "--snapshotter", "scratch", "busybox", "sh", "-c", "echo $SCRATCH_LIMIT"]
    assert daemon.imod(*words, check=True).stdout == "4096\n"
    assert daemon.imod("run", "--rm", "busybox", "sh", "-c", "echo [$SCRATCH_LIMIT]", check=True).stdout == "[]\n"

    refused = daemon.imod("run", "--rm", "--snapshotter", "scratch", "--label", "scratch/needs=5000", "busybox", "true")
    assert "needs 5000 bytes, and the limit is 4096" in refused.stderr
    assert refused.returncode != 0

    ours = rows(daemon)
    assert (ours["snapshotters.scratch"]["state"], ours["hooks.scratch"]["state"]) == ("ready", "ready")
    assert ours["snapshotters.scratch"]["exports"] == {"root": str(daemon.root / "snapshotters/scratch")}
    assert "failed" not in {row["state"] for row in ours.values()}
    assert "limit_mb of [snapshotters.scratch] are of version 1 and are read as limit of version 2" in daemon.tail(400)
    listed = daemon.ctr("plugins", "ls", "-d", "id==scratch", check=True).stdout
    assert re.search(r"root\s+\S+/snapshotters/scratch", listed), listed


def test_one_for_another_contract_is_a_failed_row(daemon_with: Callable[..., PrivateDaemon], busybox: Built) -> None:
    """Which names both versions; the daemon, and the distribution's other plugin, serve on."""
    daemon = daemon_with(
        "[hooks.scratch]\nlimit = 4096\n", **{"SnapshotterConfig, contract=1": "SnapshotterConfig, contract=2"}
    )
    daemon.imod("images", "import", str(busybox.path), check=True)
    refused = daemon.imod("run", "--rm", "--snapshotter", "scratch", "busybox", "true")
    assert refused.returncode == 125
    row = rows(daemon)["snapshotters.scratch"]
    assert (row["state"], row["code"]) == ("failed", "contract_version")
    reason = str(row["reason"])
    assert "scratch-plugins 2.0.0" in reason
    assert "version 2 of the contract snapshotters" in reason
    assert "this daemon has version 1" in reason
    assert reason in refused.stderr
    assert "Traceback" not in daemon.tail(400)
    assert daemon.imod("run", "--rm", "busybox", "echo", "on", check=True).stdout == "on\n"
    assert rows(daemon)["hooks.scratch"]["state"] == "ready"


@pytest.mark.slow
def test_its_own_tests_pass_beside_the_daemon(
    environment: Callable[..., Path], wheels: dict[str, Path], tmp_path: Path
) -> None:
    third = declared(wheels.values()) + needed_by(["pytest", "hypothesis"])
    binaries = environment(
        [*wheels.values(), example(tmp_path)], {each.metadata["Name"]: each for each in third}.values()
    )
    command = [str(binaries / "python"), "-m", "pytest", "-q", "--basetemp", str(tmp_path / "base"), "tests"]
    done = subprocess.run(command, cwd=EXAMPLE, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "15 of 15 rules held" in done.stdout
