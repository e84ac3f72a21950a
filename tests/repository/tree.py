"""This tree: its packages, where each lies, and what its files import."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

__all__ = ["LIBRARIES", "ROOT", "Package", "Use", "files", "packages", "uses"]

ROOT = Path(__file__).resolve().parents[2]

#: Libraries that are part of intermodal-core: they may need what the core needs and no more.
LIBRARIES = frozenset(
    {"intermodal_cni", "intermodal_netlink", "intermodal_oci", "intermodal_operations", "intermodal_snapshots"}
)


class Package(NamedTuple):
    """An import package and the room it lies in: core, api, lib, client or plugins."""

    name: str
    path: Path
    room: str

    def modules(self) -> Iterator[Path]:
        """Its files; templates of others' packages are none."""
        apart = {"__pycache__", "templates"}
        return (path for path in sorted(self.path.rglob("*.py")) if not apart.intersection(path.parts))


class Use(NamedTuple):
    """An import, wherever in its file it stands."""

    path: Path
    line: int
    module: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line} imports {self.module}"


def packages() -> list[Package]:
    """Every import package of the tree."""
    roots = [(ROOT / room, room) for room in ("core", "api", "lib", "client")]
    roots += [(path, "plugins") for path in sorted((ROOT / "plugins").iterdir()) if path.is_dir()]
    return [
        Package(path.name, path, room)
        for root, room in roots
        for path in sorted(root.glob("intermodal*"))
        if any(path.rglob("*.py"))
    ]


def uses(path: Path) -> Iterator[Use]:
    """What a file imports, also within functions and for the type checker alone."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (Use(path, node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield Use(path, node.lineno, node.module or "")


def files(untracked: bool = False) -> list[Path]:
    """The files that git tracks; with `untracked` also those that it would be asked to. Skips the test without a clone."""
    if not (ROOT / ".git").exists():
        pytest.skip("this tree is no clone: git lists what belongs to it")
    # Whoever owns the tree: who runs tests as root has often cloned it as somebody else.
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached"]
    command += ["--others", "--exclude-standard"] if untracked else []
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]
