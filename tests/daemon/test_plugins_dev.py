"""`imod plugins dev`: a package that is not installed runs in a daemon of its own, of which nothing is left."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from intermodal.cli.scaffold import write

from tests.harness.daemon import BIN
from tests.harness.images import Built

pytestmark = pytest.mark.slow


class Dev:
    """A running `imod plugins dev`, and its output until it was ready."""

    def __init__(self, directory: Path, *options: str) -> None:
        command = [str(BIN / "imod"), "plugins", "dev", str(directory), *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.said = ""
        deadline = time.monotonic() + 60
        assert self.process.stdout is not None
        while " ready on " not in self.said:
            assert select.select([self.process.stdout], [], [], max(0, deadline - time.monotonic()))[0], self.said
            data = os.read(self.process.stdout.fileno(), 65536).decode()
            assert data, self.said
            self.said += data
        found = re.search(r"export INTERMODAL_ADDRESS=(\S+)", self.said)
        assert found, self.said
        self.address = found[1]

    def imod(self, *words: str) -> str:
        command = [str(BIN / "imod"), "--address", self.address, *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def end(self) -> str:
        """As Ctrl-C ends it; what it said."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        rest, _ = self.process.communicate(timeout=60)
        return self.said + rest.decode()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return write("snapshotter", "ice_box", str(tmp_path / "package"))


@pytest.fixture
def dev(package: Path) -> Iterator[Dev]:
    dev = Dev(package)
    yield dev
    dev.end()


def test_it_runs_and_leaves_nothing(dev: Dev, package: Path, busybox: Built) -> None:
    assert f"snapshotters.ice_box from {package}" in dev.said
    before = sorted(package.rglob("*"))
    dev.imod("images", "import", str(busybox.path))
    assert dev.imod("run", "--rm", "--snapshotter", "ice_box", "busybox", "echo", "hello") == "hello\n"
    dev.imod("run", "-d", "--name", "stays", "--snapshotter", "ice_box", "busybox", "sleep", "1000")
    plugins = json.loads(dev.imod("plugins", "ls", "-o", "json"))
    (ours,) = [plugin for plugin in plugins if plugin["name"] == "ice_box"]
    assert (ours["state"], ours["distribution"]) == ("ready", "intermodal-ice-box")
    assert Path(ours["exports"]["root"]).is_dir()
    said = dev.end()
    assert dev.process.returncode == 0
    assert "stopping" in said, "its log is on the screen"
    assert not Path(dev.address).parents[1].exists()
    assert [path for path in sorted(package.rglob("*")) if "__pycache__" not in path.parts] == before


def test_what_is_wrong_with_it_is_on_the_screen(package: Path) -> None:
    (package / "src/intermodal_ice_box/plugin.py").write_text("import nothing_of_the_kind\n")
    config = package.parent / "config.toml"
    config.write_text("version = 1\n[snapshotters.ice_box]\nrequired = true\n")
    command = [str(BIN / "imod"), "plugins", "dev", str(package), "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "snapshotters.ice_box is failed" in done.stderr
    assert "No module named 'nothing_of_the_kind'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "name the directory of a plugin's package"),
        ("[project", "not TOML"),
        ('[project]\nname = "x"\n', "it has no [project.entry-points."),
    ],
)
def test_what_is_no_package(tmp_path: Path, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / "pyproject.toml").write_text(text)
    command = [str(BIN / "imod"), "plugins", "dev", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 125
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
