"""The tree keeps its own rules: sizes, words, public lists, and lists that must agree."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.repository.tree import LIBRARIES, ROOT, files, packages

LONGEST = 600

#: Written so that this file does not hold what it looks for.
FORBIDDEN = re.compile(
    r"/[w]ork/|/[o]pt/[p]ypi|(?i:[a]ssistant|[p]ypi\.org|[p]ythonhosted|index[-]url|find[-]links|[g]hcr\.io|[q]uay\.io|[g]cr\.io"
    r"|registry[-]1\.)|\b([T]ODO|[F]IXME|[X]XX)\b"
)

#: Public modules without `__all__`, and why.
NO_LIST = {
    "core/intermodal_core/__init__.py": "it has a version and nothing else",
    "core/intermodal_core/testing/__init__.py": "its modules are the kits, one a kind",
}


def _text(path: Path) -> str | None:
    """Its text; None for one that is none."""
    try:
        return path.read_text()
    except UnicodeDecodeError:
        return None


def _project(path: str = "pyproject.toml") -> dict[str, Any]:
    return tomllib.loads((ROOT / path).read_text())


def _name(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    assert found is not None, requirement
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def test_no_file_speaks_of_where_it_was_made() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files()
        for number, line in enumerate((_text(path) or "").splitlines(), 1)
        if FORBIDDEN.search(line)
    ]
    assert found == []


def test_no_file_is_long() -> None:
    generated = ROOT / "api/intermodal_api"
    long = {
        str(path.relative_to(ROOT)): lines
        for path in files()
        if path.suffix in (".py", ".proto", ".md", "") and not path.is_relative_to(generated)
        if (lines := len((_text(path) or "").splitlines())) > LONGEST
    }
    assert long == {}


def test_every_script_is_python_or_says_what_it_is() -> None:
    scripts = [path for path in files() if path.parent.name in ("tools", ".ci")]
    assert scripts
    for path in scripts:
        assert path.read_text().startswith("#!"), path
        assert path.stat().st_mode & 0o111, f"{path} cannot be executed"


def _public_modules() -> list[Path]:
    return [
        path
        for package in packages()
        if package.room != "api"
        for path in package.modules()
        if not any(part.startswith("_") and part != "__init__.py" for part in path.relative_to(package.path).parts)
    ]


def _names(tree: ast.Module) -> tuple[list[str] | None, set[str]]:
    """What `__all__` lists, if it is there, and what the module defines or imports."""
    listed: list[str] | None = None
    defined: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            defined |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            defined.add(node.id)
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            assert isinstance(node, ast.Assign | ast.AnnAssign)
            assert node.value is not None
            listed = ast.literal_eval(node.value)
    return listed, defined


def test_every_public_module_says_what_is_public() -> None:
    without = []
    for path in _public_modules():
        tree = ast.parse(path.read_text())
        if path.name == "__init__.py" and not any(not isinstance(node, ast.Expr) for node in tree.body):
            continue  # words alone
        listed, defined = _names(tree)
        if listed is None:
            without.append(path.relative_to(ROOT).as_posix())
        else:
            assert sorted(set(listed) - defined) == [], f"{path} lists what it does not have"
            assert len(listed) == len(set(listed)), f"{path} lists a name twice"
    assert without == sorted(NO_LIST)


def test_every_module_begins_with_what_it_is() -> None:
    silent = [
        path.relative_to(ROOT).as_posix()
        for path in _public_modules()
        if (tree := ast.parse(path.read_text())).body and ast.get_docstring(tree) is None
    ]
    assert silent == []


# Lists that must agree.


def _constraints() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line), f"constraints.txt: {line}"
    pinned = dict(line.split("==") for line in lines)
    assert len(pinned) == len(lines), "constraints.txt pins one name twice"
    return {_name(name): version for name, version in pinned.items()}


def test_constraints_are_what_is_installed() -> None:
    installed = {name: importlib.metadata.version(name) for name in _constraints()}
    assert installed == _constraints()


def test_everything_installed_on_purpose_is_pinned() -> None:
    todo = [*_project()["project"]["dependencies"], *_project("core/pyproject.toml")["project"]["dependencies"]]
    todo += (ROOT / "requirements-dev.txt").read_text().split()
    needed: set[str] = set()
    while todo:
        line = todo.pop()
        name = _name(line)
        if "extra ==" in line or name in needed or name.startswith("intermodal"):
            continue
        try:
            todo += importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            assert ";" in line, f"{line} is not installed: make venv"
            continue  # for other systems or versions of Python
        needed.add(name)
    assert sorted(needed - set(_constraints()) - {"pip", "setuptools"}) == []


def test_both_distributions_have_one_version() -> None:
    from intermodal_core import __version__

    versions = {_project(path)["project"]["version"] for path in ("pyproject.toml", "core/pyproject.toml")}
    assert versions == {__version__}


def test_project_file_lists_every_package() -> None:
    project = _project()
    tools = project["tool"]
    names = {package.name for package in packages()}
    roots = {package.path.parent.relative_to(ROOT).as_posix() for package in packages()}
    assert set(tools["mypy"]["mypy_path"]) == roots
    assert set(tools["hatch"]["build"]["dev-mode-dirs"]) == roots - {"core"}
    assert set(tools["importlinter"]["root_packages"]) == names
    wheel = {Path(path).name for path in tools["hatch"]["build"]["targets"]["wheel"]["packages"]}
    core = _project("core/pyproject.toml")["tool"]["hatch"]["build"]
    libraries = set(core["hooks"]["custom"]["libraries"])
    assert libraries == LIBRARIES
    assert wheel | libraries | {"intermodal_core"} == names
    assert wheel & libraries == set()


@pytest.mark.parametrize("room", ["plugins", "client"])
def test_import_contracts_name_every_package(room: str) -> None:
    """The linter's lists are written out, so that a package that is missing there would be free to do as it likes."""
    core, libraries, apart = _project()["tool"]["importlinter"]["contracts"]
    ours = {package.name for package in packages() if package.room == room}
    for listed in (core["forbidden_modules"], libraries["forbidden_modules"], apart["modules"]):
        assert ours - set(listed) == set()
    lib = {package.name for package in packages() if package.room in ("lib", "api")}
    assert set(libraries["source_modules"]) == lib


def test_makefile_help_lists_every_target() -> None:
    text = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    described = set(re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE))
    assert set(phony.split()) == described
