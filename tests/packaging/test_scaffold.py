"""`imod plugins new`: a package of each kind that is right as it is; and what it refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from intermodal.cli.errors import Failure
from intermodal.cli.scaffold import KINDS, TEMPLATES, files_of, write
from intermodal_core import discovery
from intermodal_core.contracts import kinds
from intermodal_core.kinds import Kind

from tests.harness.daemon import PrivateDaemon
from tests.packaging.conftest import declared, needed_by, pip

#: Kinds whose plugins are the daemon's own logic, for which there is no template.
WITHOUT = {"managers", "metadata"}
NAME = "ice_box"


def test_there_is_a_template_of_each_kind() -> None:
    stated = {kind.name for kind in vars(kinds).values() if isinstance(kind, Kind)}
    assert {template.group for template in KINDS.values()} == stated - WITHOUT
    assert {path.name for path in TEMPLATES.iterdir()} == {*KINDS, "package"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_is_named_for_the_plugin(kind: str) -> None:
    for path, text in files_of(kind, NAME).items():
        assert "sample" not in (path + text).lower(), path
        assert re.search(r"\{[a-z]+\}", text) is None or path.endswith(".py"), path
        assert text.endswith("\n") or text == "", path
        if path.endswith(".py") and text:
            compile(text, path, "exec")


def test_it_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    top = write("snapshotter", "ice-box")
    assert top == Path("intermodal-ice-box")
    assert (top / "src/intermodal_ice_box/snapshotter.py").read_text().count("IceBoxSnapshotter") == 2
    before = sorted(top.rglob("*"))
    with pytest.raises(Failure, match="not empty"):
        write("network", "ice_box")
    assert sorted(top.rglob("*")) == before


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("snapshooter", "x", "did you mean snapshotter?"),
        ("snapshotters", "x", "did you mean snapshotter?"),
        ("zzz", "x", "KIND is one of snapshotter, runtime"),
        ("network", "../evil", "cannot be a plugin's name"),
        ("network", "Upper", "cannot be a plugin's name"),
        ("network", "class", "cannot be a plugin's name"),
        ("runtime", "runc", "has a plugin runtimes.runc already"),
        ("hook", "core", "intermodal_core is installed here already"),
    ],
)
def test_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, name: str, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Failure) as raised:
        write(kind, name)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
class TestPackages:
    """Of each kind, in an environment that has the two distributions, pytest, and no more."""

    @pytest.fixture(scope="class")
    @classmethod
    def binaries(cls, environment: Callable[..., Path], wheels: dict[str, Path]) -> Path:
        """The environment's programs."""
        third = declared(wheels.values()) + needed_by(["pytest", "hypothesis", "hatchling", "editables"])
        return environment(wheels.values(), {each.metadata["Name"]: each for each in third}.values())

    @pytest.mark.parametrize("kind", KINDS)
    def test_its_tests_pass_untouched(self, binaries: Path, kind: str, tmp_path: Path) -> None:
        top = write(kind, NAME, str(tmp_path / "package"))
        pip("install", "-q", "--no-deps", "--no-build-isolation", "-e", top, python=binaries / "python")
        try:
            with tempfile.TemporaryDirectory(prefix="kit-") as short:  # for the names of sockets
                command = [str(binaries / "python"), "-m", "pytest", "-q", "--basetemp", f"{short}/base"]
                done = subprocess.run(command, cwd=top, capture_output=True, text=True, timeout=300, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            ((held, all_),) = re.findall(r"(\d+) of (\d+) rules held", done.stdout)
            assert held == all_, done.stdout
            self.is_ready(binaries, KINDS[kind].group, tmp_path)
        finally:
            pip("uninstall", "-q", "-y", "intermodal-ice-box", python=binaries / "python")

    def is_ready(self, binaries: Path, group: str, place: Path) -> None:
        """A daemon that must have it starts; of a kind with one in use, the bundled one is switched off."""
        (place / "key").write_text("of a verifier")
        own = f'key = "{place}/key"\n' if group == "verifiers" else ""
        others = {"content": "local", "image_sources": "registry"}
        off = f"[{group}.{others[group]}]\nenabled = false\n" if group in others else ""
        config = f"[{group}.{NAME}]\nrequired = true\n{own}{off}"
        with PrivateDaemon(config, command=[str(binaries / "intermodald")]) as daemon:
            rows = json.loads(daemon.imod("plugins", "ls", "-o", "json", check=True).stdout)
        (row,) = [row for row in rows if (row["kind"], row["name"]) == (group, NAME)]
        assert row["state"] == "ready"

    def test_their_types_are_right(self, binaries: Path, tmp_path: Path) -> None:
        tops = [write(kind, f"ice_{kind.replace('-', '_')}", str(tmp_path / kind)) for kind in KINDS]
        command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "/dev/null", "--python-executable"]
        command += [str(binaries / "python"), "--cache-dir", "/dev/null", "--explicit-package-bases"]
        command += [str(top / part) for top in tops for part in ("src", "tests")]
        path = ":".join(str(top / part) for top in tops for part in ("src", "tests"))
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", "MYPYPATH": path},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    @pytest.mark.parametrize("kind", KINDS)
    def test_its_style_is_ours(self, kind: str, tmp_path: Path) -> None:
        top = write(kind, NAME, str(tmp_path / "package"))
        command = [
            sys.executable,
            "-m",
            "ruff",
            "check",
            "--select",
            "F,W,I,UP,B",
            "--isolated",
            "--line-length",
            "120",
            ".",
        ]
        done = subprocess.run(command, cwd=top, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout


def test_the_group_of_each_is_a_kind() -> None:
    groups = {point.name for point in discovery.find() if point.group == "kinds"}
    assert {template.group for template in KINDS.values()} <= groups
