"""A plugin's author: types and contracts from the wheel of intermodal-core, and a wheel that an unmodified daemon uses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.daemon import PrivateDaemon
from tests.harness.images import Built
from tests.packaging.conftest import build_wheel, declared
from tests.repository.tree import ROOT

SAMPLE = ROOT / "tests/typing/sample_plugin.py"

PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "sample-plugin"
version = "1.0"
dependencies = ["intermodal-core>=0.1,<0.2"]

[project.entry-points."intermodal.snapshotters"]
copy = "sample_plugin:snapshotter"

[project.entry-points."intermodal.networks"]
ledger = "sample_plugin:network"

[tool.hatch.build.targets.wheel]
only-include = ["sample_plugin.py"]
"""


def test_types_from_the_authors_side(environment: Callable[..., Path], wheels: dict[str, Path], tmp_path: Path) -> None:
    """Strictly, without this project's settings, and with every `type: ignore` needed."""
    core = wheels["intermodal-core"]
    python = environment([core], declared([core])) / "python"
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull]
    command += ["--cache-dir", str(tmp_path / "cache"), "--python-executable", str(python), str(SAMPLE)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def daemon(environment: Callable[..., Path], wheels: dict[str, Path], tmp_path: Path) -> Iterator[PrivateDaemon]:
    """A daemon from the wheels alone, with the author's beside them."""
    source = tmp_path / "sample"
    source.mkdir()
    (source / "pyproject.toml").write_text(PROJECT)
    shutil.copyfile(SAMPLE, source / "sample_plugin.py")
    sample = build_wheel(source, tmp_path)
    binaries = environment([*wheels.values(), sample], declared(wheels.values()))
    with PrivateDaemon(command=[str(binaries / "intermodald")]) as daemon:
        yield daemon


def test_an_unmodified_daemon_uses_it(daemon: PrivateDaemon, busybox: Built) -> None:
    daemon.imod("images", "import", str(busybox.path), check=True)
    words = ["run", "--rm", "--snapshotter", "copy", "--net", "ledger", "busybox", "cat", "/proc/net/dev"]
    said = daemon.imod(*words, check=True).stdout
    assert {line.partition(":")[0].strip() for line in said.splitlines()[2:]} <= {"lo", "sit0", "tunl0", "ip6tnl0"}

    plugins = json.loads(daemon.imod("plugins", "ls", "-o", "json", check=True).stdout)
    ours = {f"{plugin['kind']}.{plugin['name']}": plugin["state"] for plugin in plugins}
    assert (ours["snapshotters.copy"], ours["networks.ledger"]) == ("ready", "ready")
    assert "failed" not in ours.values()
    assert list((daemon.root / "networks/ledger").iterdir()) == []
