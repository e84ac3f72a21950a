"""The documents do what they say: their commands and programs run, their config is accepted, their links lead somewhere.

Blocks marked `sh` and `python` run in order, a document's in one directory, with the daemon of the test as the default
one. A `text` block right after one is what it prints. `toml` is a config for the daemon or part of a pyproject. `console`
shows what is typed on a machine of one's own, and `text` alone is a picture.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from intermodal_control.methods import methods

from tests.harness.daemon import BIN, PrivateDaemon
from tests.harness.images import Built
from tests.repository.tree import ROOT, files

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
#: Their blocks run where plugins can be installed: test_plugin_guide.py.
APART = {ROOT / "docs" / name for name in ("plugin-guide.md", "plugin-kinds.md", "hooks.md")}
LANGUAGES = {"sh", "python", "toml", "text", "console", "ini", "json"}


class Block(NamedTuple):
    """A fenced block: its language, its text, and what the block after it says that it prints."""

    line: int
    language: str
    text: str
    prints: str | None


def blocks(document: Path) -> Iterator[Block]:
    """The blocks of a document. Raises ValueError for a fence that is never closed."""
    found: list[tuple[int, int, str, str]] = []
    lines = iter(enumerate(document.read_text().splitlines(), 1))
    for number, line in lines:
        if line.startswith("```"):
            body = []
            for end, inner in lines:  # noqa: B007 - used after the loop
                if inner.startswith("```"):
                    break
                body.append(inner)
            else:
                raise ValueError(f"{document.name}:{number}: this block is not closed")
            found.append((number, end, line[3:].strip(), "\n".join(body) + "\n"))
    for index, (number, end, language, text) in enumerate(found):
        after = found[index + 1] if index + 1 < len(found) else None
        follows = after is not None and after[2] == "text" and after[0] == end + 2
        yield Block(number, language, text, after[3] if after and follows else None)


def parameters(paths: list[Path]) -> list[object]:
    return [pytest.param(path, id=path.relative_to(ROOT).as_posix()) for path in paths]


def holding(*languages: str) -> list[object]:
    """The documents with such blocks."""
    return parameters(
        [path for path in DOCUMENTS if path not in APART and any(block.language in languages for block in blocks(path))]
    )


@pytest.mark.parametrize("document", parameters(DOCUMENTS))
def test_every_block_says_what_it_is(document: Path) -> None:
    assert [(block.line, block.language) for block in blocks(document) if block.language not in LANGUAGES] == []


@pytest.mark.parametrize("document", holding("sh", "python"))
def test_blocks_run(document: Path, daemon: PrivateDaemon, busybox: Built, tmp_path: Path) -> None:
    shutil.copyfile(busybox.path, tmp_path / "busybox.tar")
    (tmp_path / "rootfs/bin").mkdir(parents=True)
    shutil.copy("/usr/bin/busybox", tmp_path / "rootfs/bin/sh")
    environment = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "INTERMODAL_ADDRESS": daemon.address,
        "INTERMODAL_NAMESPACE": daemon.namespace,
        "CONTAINERD_NAMESPACE": daemon.namespace,
    }
    shells = {"sh": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-W", "error", "-c"]}
    for block in blocks(document):
        if block.language not in shells:
            continue
        done = subprocess.run(
            [*shells[block.language], block.text],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        where = f"{document.name}:{block.line}"
        assert done.returncode == 0, f"{where}: {done.stdout}{done.stderr}"
        if block.prints is not None:
            assert done.stdout == block.prints, where


@pytest.mark.parametrize("document", holding("toml"))
def test_configs_are_accepted(document: Path, tmp_path: Path) -> None:
    for block in blocks(document):
        if block.language != "toml":
            continue
        held = tomllib.loads(block.text)
        if "version" in held:
            path = tmp_path / f"{block.line}.toml"
            path.write_text(block.text)
            done = subprocess.run(
                [BIN / "imod", "config", "check", path], capture_output=True, text=True, timeout=60, check=False
            )
            assert done.returncode == 0, f"{document.name}:{block.line}: {done.stderr}"
        else:
            assert set(held) <= {"project", "build-system"}, f"{document.name}:{block.line} is neither"
            groups = {group.removeprefix("intermodal.") for group in held["project"].get("entry-points", {})}
            assert groups <= {path.stem for path in (ROOT / "core/intermodal_core/contracts").glob("*.py")}


@pytest.mark.parametrize("document", parameters(DOCUMENTS))
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", document.read_text())
    gone = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert gone == []


@pytest.mark.parametrize("document", parameters(DOCUMENTS))
def test_files_that_are_named_exist(document: Path) -> None:
    """A path in backquotes below one of the tree's folders, also with a `*`."""
    folders = "core|lib|api|client|plugins|tests|bench|docs|examples|tools"
    paths = re.findall(rf"`((?:{folders})/[\w./*-]+)`", document.read_text())
    assert [path for path in paths if not any(ROOT.glob(path.rstrip("/")))] == []


def test_documents_that_the_code_names_exist() -> None:
    code = [path for path in files() if path.suffix in (".py", ".service") or path.name == "Makefile"]
    named = {name for path in code for name in re.findall(r"docs/[a-z-]+\.md", path.read_text())}
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_the_control_protocol_lists_every_method() -> None:
    table = methods(SimpleNamespace(events=None, registry=None))  # type: ignore[arg-type]
    text = (ROOT / "docs/control-protocol.md").read_text().partition("## Methods")[2]
    named = {name for line in text.splitlines() if line.startswith("| `") for name in _first_cell(line)}
    assert named == set(table)


def test_the_operators_manual_lists_every_reason_code() -> None:
    """Those that the core gives; what a plugin raises by meaning has gRPC's names."""
    code = "".join(path.read_text() for path in (ROOT / "core/intermodal_core").glob("*.py"))
    given = set(re.findall(r'LoadError\(\s*"([a-z_]+)"', code))
    given |= set(re.findall(r'\.settle\(\s*"[a-z]+",\s*"([a-z_]+)"', code))
    assert len(given) > 12
    table = (ROOT / "docs/operating.md").read_text().partition("| code |")[2].partition("\n\n")[0]
    assert given <= {name for line in table.splitlines() if line.startswith("| `") for name in _first_cell(line)}


def _first_cell(row: str) -> list[str]:
    return re.findall(r"`([^`]+)`", row.split("|")[1])
