"""What the wheels and the sdist hold: every package of the tree once, typed, with entry points that can be imported."""

from __future__ import annotations

import configparser
import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from intermodal_core import discovery

from tests.packaging.conftest import build_wheel, declared, pip
from tests.repository.tree import LIBRARIES, ROOT, packages

CORE = {"intermodal_core", *LIBRARIES}

IMPORT_ALL = """
import importlib, pkgutil, sys
for package in sys.argv[1:]:
    found = importlib.import_module(package)
    for module in pkgutil.walk_packages(found.__path__, package + "."):
        # The kits' extra names pytest, that of tracing OpenTelemetry.
        if not module.name.startswith(("intermodal_core.testing", "intermodal_tracing.tracing")):
            importlib.import_module(module.name)
from importlib.metadata import entry_points
for group in entry_points().groups - {"pytest11"}:  # the kits' report, likewise
    for point in entry_points(group=group):
        assert not point.dist.name.startswith("intermodal") or point.load() is not None
"""


PACKAGES = {package.name: package.path for package in packages()}


def _files(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def _packages_of(wheel: Path) -> set[str]:
    return {top for name in _files(wheel) if not (top := name.partition("/")[0]).endswith(".dist-info")}


def test_every_package_is_in_one_wheel(wheels: dict[str, Path]) -> None:
    assert _packages_of(wheels["intermodal-core"]) == CORE
    assert _packages_of(wheels["intermodal"]) == set(PACKAGES) - CORE


def test_every_file_of_a_package_is_there_once(sources: dict[str, Path], wheels: dict[str, Path]) -> None:
    files = [name for wheel in wheels.values() for name in _files(wheel) if ".dist-info/" not in name]
    assert [name for name, count in Counter(files).items() if count > 1] == []
    places = {path.relative_to(ROOT).as_posix(): path.name for path in PACKAGES.values()}
    tree = sources["intermodal"]
    assert set(files) == {
        f"{package}/{file.relative_to(tree / place).as_posix()}"
        for place, package in places.items()
        for file in (tree / place).rglob("*")
        if file.is_file()
    }


def test_every_package_is_typed(wheels: dict[str, Path]) -> None:
    files = {name for wheel in wheels.values() for name in _files(wheel)}
    assert [name for name in sorted(PACKAGES) if f"{name}/py.typed" not in files] == []


def test_entry_points_lie_in_their_own_wheel(wheels: dict[str, Path]) -> None:
    for wheel in wheels.values():
        with zipfile.ZipFile(wheel) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt")]
            parser = configparser.ConfigParser(delimiters=("=",))
            parser.optionxform = str  # type: ignore[assignment]
            parser.read_string(archive.read(name).decode())
        files = set(_files(wheel))
        for section in parser.sections():
            for module in (value.partition(":")[0].replace(".", "/") for value in parser[section].values()):
                assert {f"{module}.py", f"{module}/__init__.py"} & files, f"[{section}] {module}"


def test_every_plugin_has_an_entry_point() -> None:
    named = {point.value.partition(".")[0] for point in discovery.find()}
    assert [name for name, path in PACKAGES.items() if "plugins" in path.parts and name not in named] == []


def test_the_whole_from_its_wheels(environment: Callable[..., Path], wheels: dict[str, Path]) -> None:
    """With what the two declare and no more, every module is imported and every entry point loaded."""
    binaries = environment(wheels.values(), declared(wheels.values()))
    pip("check", python=binaries / "python")
    command = [str(binaries / "python"), "-I", "-c", IMPORT_ALL, *sorted(PACKAGES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    for script in ("imod", "intermodald"):
        said = subprocess.run([binaries / script, "--version"], capture_output=True, text=True, timeout=30, check=True)
        assert said.stdout.startswith(f"{script} ")


@pytest.mark.parametrize("name", ["intermodal-core", "intermodal"])
def test_the_sdist_builds_the_same_wheel(
    name: str, sources: dict[str, Path], wheels: dict[str, Path], tmp_path: Path
) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path / "sdist"],
        cwd=sources[name],
        check=True,
        capture_output=True,
        timeout=120,
    )
    (sdist,) = (tmp_path / "sdist").glob("*.tar.gz")
    shutil.unpack_archive(sdist, tmp_path)
    (source,) = (path.parent for path in tmp_path.glob("*/PKG-INFO"))
    assert _digests(build_wheel(source, tmp_path)) == _digests(wheels[name])


def _digests(wheel: Path) -> dict[str, str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}
