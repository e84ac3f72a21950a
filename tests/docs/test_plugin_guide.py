"""The manuals for authors do what they say: in an environment of their own, beside a daemon of it, a reader types every block."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.docs.test_snippets import APART, Block, blocks, parameters
from tests.harness.daemon import PrivateDaemon
from tests.harness.images import Built
from tests.packaging.conftest import declared, environment, needed_by, sources, wheels

__all__ = ["environment", "sources", "wheels"]

pytestmark = pytest.mark.slow

#: pip as a reader has it, but that it takes nothing from anywhere else.
PIP = """#!/bin/sh
command=$1; shift
case $command in install|wheel) set -- --no-index --no-build-isolation "$@";; esac
exec {python} -m pip --disable-pip-version-check --python {bin}/python "$command" "$@"
"""


@pytest.fixture(scope="module")
def binaries(environment: Callable[..., Path], wheels: dict[str, Path]) -> Path:
    """The programs of an environment with the two distributions, pytest, and what builds packages."""
    third = declared(wheels.values()) + needed_by(["pytest", "hypothesis", "hatchling", "editables"])
    found = environment(wheels.values(), {each.metadata["Name"]: each for each in third}.values())
    scripts = {
        "pip": PIP.format(python=sys.executable, bin=found),
        "pytest": f'#!/bin/sh\nexec {found}/python -m pytest "$@"\n',
    }
    for name, script in scripts.items():
        (found / name).write_text(script)
        (found / name).chmod(0o755)
    return found


@pytest.fixture
def reader(
    binaries: Path, busybox: Built, tmp_path: Path
) -> Iterator[Callable[[Block], subprocess.CompletedProcess[str]]]:
    """Runs a block as somebody who reads does, in one directory."""
    shutil.copyfile(busybox.path, tmp_path / "busybox.tar")
    with PrivateDaemon(command=[str(binaries / "intermodald")]) as daemon:
        own = {
            "PATH": f"{binaries}:{os.environ['PATH']}",
            "INTERMODAL_ADDRESS": daemon.address,
            "INTERMODAL_NAMESPACE": daemon.namespace,
            "PIP_ROOT_USER_ACTION": "ignore",
            "PYTEST_ADDOPTS": f"-p no:cacheprovider --basetemp {tmp_path}/base",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

        def run(block: Block) -> subprocess.CompletedProcess[str]:
            words = ["bash", "-euo", "pipefail", "-c"] if block.language == "sh" else [str(binaries / "python"), "-c"]
            return subprocess.run(
                [*words, block.text],
                cwd=tmp_path,
                env={**os.environ, **own},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )

        yield run


@pytest.mark.parametrize("document", parameters(sorted(APART)))
def test_every_block(
    document: Path, reader: Callable[[Block], subprocess.CompletedProcess[str]], binaries: Path, tmp_path: Path
) -> None:
    for block in blocks(document):
        where = f"{document.name}:{block.line}"
        if block.language in ("sh", "python"):
            done = reader(block)
            assert done.returncode == 0, f"{where}: {done.stdout}{done.stderr}"
            if block.prints is not None:
                assert done.stdout == block.prints, where
        elif block.language == "toml" and "version" in tomllib.loads(block.text):
            path = tmp_path / f"{block.line}.toml"
            path.write_text(block.text)
            check = [str(binaries / "imod"), "config", "check", str(path)]
            done = subprocess.run(check, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 0, f"{where}: {done.stderr}"
