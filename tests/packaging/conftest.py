"""The distributions as users get them, built from this tree, and environments that hold nothing but them."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable, Iterable
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.repository.tree import ROOT, files


def pip(*arguments: str | Path, python: Path | None = None) -> str:
    """Run this environment's pip, for another environment where `python` is given, without any index."""
    command = [sys.executable, "-m", "pip", *(["--python", str(python)] if python else []), *map(str, arguments)]
    quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INDEX": "1", "PIP_ROOT_USER_ACTION": "ignore"}
    done = subprocess.run(
        command, env={**os.environ, **quiet}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build_wheel(source: Path, directory: Path) -> Path:
    """The wheel of a source tree or sdist, made with what is installed here."""
    pip("wheel", "-q", "--no-deps", "--no-build-isolation", "-w", directory, source)
    (wheel,) = directory.glob("*.whl")
    return wheel


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The source tree of each distribution, by its name, in a copy of this tree that nobody writes to."""
    copy = tmp_path_factory.mktemp("tree")
    for path in files(untracked=True):
        place = copy / path.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, place)
    return {"intermodal-core": copy / "core", "intermodal": copy}


@pytest.fixture(scope="session")
def wheels(sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel of each distribution, by its name."""
    return {name: build_wheel(source, tmp_path_factory.mktemp("wheel")) for name, source in sources.items()}


def needed_by(names: Iterable[str]) -> list[importlib.metadata.Distribution]:
    """The installed distributions of these names and of all that they require, extras apart."""
    found: dict[str, importlib.metadata.Distribution] = {}
    todo = list(names)
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name not in found:
            found[name] = distribution = importlib.metadata.distribution(name)
            todo += requirements(distribution.requires or [])
    return list(found.values())


def declared(wheels: Iterable[Path]) -> list[importlib.metadata.Distribution]:
    """What wheels require of others, directly and through them, as it is installed here."""
    names: list[str] = []
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
            names += requirements(Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist") or [])
    return needed_by(name for name in names if not name.startswith("intermodal"))


def requirements(lines: Iterable[str]) -> list[str]:
    """The names in `Requires-Dist` lines that hold here without an extra."""
    parsed = map(Requirement, lines)
    return [each.name for each in parsed if each.marker is None or each.marker.evaluate({"extra": ""})]


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a virtual environment with some wheels and copies of installed distributions; returns its bin directory."""

    def make(wheels: Iterable[Path], third_party: Iterable[importlib.metadata.Distribution]) -> Path:
        top = tmp_path_factory.mktemp("environment")
        venv.create(top, with_pip=False, symlinks=True)
        site = top / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
        for distribution in third_party:
            for file in distribution.files or []:
                if ".." not in file.parts and "__pycache__" not in file.parts:
                    (site / file).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(str(file.locate()), site / file)
        pip("install", "-q", "--no-deps", "--no-compile", *wheels, python=top / "bin/python")
        return top / "bin"

    return make
