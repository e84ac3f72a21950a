"""Arrows point down only: what each room may import, and that the core compares no plugin's name."""

from __future__ import annotations

import ast
import itertools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from intermodal_core import discovery

from tests.repository.tree import LIBRARIES, ROOT, Package, packages, uses

BELOW = {
    "core": set(),
    "api": set(),
    "lib": {"core", "api", "lib"},
    "client": {"core", "api", "lib"},
    "plugins": {"core", "api", "lib"},
}
#: What the core and its libraries may need besides Python's own; its kits are for tests.
CORE_NEEDS = {"msgspec", "pluggy"}
KITS_NEED = {"pytest", "hypothesis"}

PACKAGES = packages()
CORE = [package for package in PACKAGES if package.room == "core"]


def _is_kit(path: Path) -> bool:
    return path.is_relative_to(ROOT / "core/intermodal_core/testing")


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_imports_of_ours(package: Package) -> None:
    rooms = {other.name: other.room for other in PACKAGES}
    wrong = []
    for path in package.modules():
        allowed = {package.name} | {name for name, room in rooms.items() if room in BELOW[package.room]}
        if package.name in LIBRARIES:
            allowed = {"intermodal_core", *LIBRARIES}
        elif _is_kit(path):
            allowed |= LIBRARIES
        wrong += [use for use in uses(path) if (top := use.module.partition(".")[0]) in rooms and top not in allowed]
    assert [str(use) for use in wrong] == []


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_imports_of_others_are_declared(package: Package) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    declared = {match[0] for text in needed if (match := re.match(r"[\w-]+", text))}
    modules = {"grpcio": "grpc", "protobuf": "google"} | {
        name: "opentelemetry" for name in declared if name.startswith("opentelemetry")
    }
    allowed = CORE_NEEDS | {modules.get(name, name) for name in declared}
    if package.room == "core" or package.name in LIBRARIES:
        allowed = CORE_NEEDS
    ours = {other.name for other in PACKAGES}
    wrong = [
        use
        for path in package.modules()
        for use in uses(path)
        if (top := use.module.partition(".")[0]) not in sys.stdlib_module_names
        if top not in ours | allowed | (KITS_NEED if _is_kit(path) else set())
    ]
    assert [str(use) for use in wrong] == []


def _core_modules() -> list[str]:
    paths = [path for package in CORE for path in package.modules() if not _is_kit(path)]
    names = [".".join(path.relative_to(ROOT / "core").with_suffix("").parts) for path in paths]
    return [name.removesuffix(".__init__") for name in names]


WALK = """
import importlib, sys
before = set(sys.modules)
for name in sys.argv[1:]:
    importlib.import_module(name)
    files = {other: getattr(module, "__file__", None) or "" for other, module in sys.modules.items() if other not in before}
    third = {other.partition(".")[0] for other, file in files.items() if "site-packages" in file}
    ours = {other.partition(".")[0] for other in files if other.startswith("intermodal")}
    print(name, *sorted(third | ours))
"""


def test_what_the_core_pulls_in() -> None:
    """Also what is imported through others, in a process that has nothing else."""
    command = [sys.executable, "-I", "-c", WALK, *_core_modules()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == len(_core_modules()) > 20
    # msgspec uses typing_extensions where it is installed; it does not require it.
    allowed = {"intermodal_core", "typing_extensions", *CORE_NEEDS}
    assert {name: extra for name, *found in lines if (extra := set(found) - allowed)} == {}


@pytest.mark.parametrize("module", ["forkserver", "syscalls", "errors", "regex", "filters", "discovery"])
def test_what_starts_often_pulls_in_nothing(module: str) -> None:
    command = [sys.executable, "-I", "-c", WALK, f"intermodal_core.{module}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == [f"intermodal_core.{module}", "intermodal_core"]


def _names_compared(tree: ast.AST, names: set[str]) -> Iterator[tuple[int, str]]:
    """Constants among `names` that a comparison, a `match` or a lookup by a constant key tells apart."""
    for node in ast.walk(tree):
        parts: list[ast.expr] = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            parts = [node.value]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            parts = [*node.args] if node.func.attr in ("startswith", "endswith", "removeprefix", "find") else []
        elif isinstance(node, ast.Dict):
            parts = [key for key in node.keys if key is not None]
        for part in parts:
            for leaf in ast.walk(part):
                if isinstance(leaf, ast.Constant) and leaf.value in names:
                    yield leaf.lineno, str(leaf.value)


def _plugin_names() -> set[str]:
    points = [point for point in discovery.find() if point.group != "kinds"]
    return {point.name for point in points} | {f"{point.group}.{point.name}" for point in points}


def _kind_names() -> set[str]:
    return {point.name for point in discovery.find() if point.group == "kinds"}


def test_the_core_tells_no_plugin_by_its_name() -> None:
    assert {"overlayfs", "runc", "grpc", "sqlite"} <= _plugin_names()
    found = [
        f"{path.relative_to(ROOT)}:{line} tells {name!r} apart"
        for package in CORE
        for path in package.modules()
        for line, name in _names_compared(ast.parse(path.read_text()), _plugin_names())
    ]
    assert found == []


def test_the_core_tells_no_kind_by_its_name() -> None:
    """Contracts and kits are each of one kind; the rest of the core knows none."""
    own = [
        path for package in CORE for path in package.modules() if not _is_kit(path) and "contracts" not in path.parts
    ]
    found = [
        f"{path.relative_to(ROOT)}:{line} tells {name!r} apart"
        for path in own
        for line, name in _names_compared(ast.parse(path.read_text()), _kind_names())
    ]
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        'name == "overlayfs"',
        'if x in ("a", "overlayfs"): pass',
        'match x:\n case "overlayfs": pass',
        'x.startswith("snapshotters.overlayfs")',
        '{"overlayfs": 1}[x]',
    ],
)
def test_a_comparison_is_seen(code: str) -> None:
    names = {"overlayfs", "snapshotters.overlayfs"}
    assert len(list(_names_compared(ast.parse(code), names))) == 1
