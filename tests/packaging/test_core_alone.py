"""intermodal-core by itself: no gRPC, no plugin, and a daemon that starts all the same."""

from __future__ import annotations

import os
import select
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.packaging.conftest import needed_by, pip

IMPORT_ALL = """
import importlib, pkgutil, sys
for package in ("intermodal_core", "intermodal_cni", "intermodal_netlink", "intermodal_oci", "intermodal_operations", "intermodal_snapshots"):
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        if not module.name.startswith("intermodal_core.testing"):  # the kits, whose extra names pytest
            importlib.import_module(module.name)
for missing in ("grpc", "google", "intermodal", "intermodal_api", "intermodal_shim", "pytest"):
    assert importlib.util.find_spec(missing) is None, missing
third = {name.partition(".")[0] for name, module in sys.modules.items() if "site-packages" in str(getattr(module, "__file__", ""))}
print(*sorted(name for name in third if not name.startswith("intermodal_")))
"""


@pytest.fixture(scope="module")
def alone(environment: Callable[..., Path], wheels: dict[str, Path]) -> Path:
    """The bin directory of an environment with intermodal-core, pluggy and msgspec."""
    return environment([wheels["intermodal-core"]], needed_by(["pluggy", "msgspec"]))


def test_core_alone(alone: Path, tmp_path: Path) -> None:
    pip("check", python=alone / "python")
    installed = pip("list", "--format=freeze", python=alone / "python").split()
    assert {line.partition("==")[0] for line in installed} == {"intermodal-core", "pluggy", "msgspec"}

    done = subprocess.run(
        [alone / "python", "-I", "-W", "error", "-c", IMPORT_ALL],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert set(done.stdout.split()) <= {"pluggy", "msgspec", "_virtualenv"}

    root, state = tmp_path / "root", tmp_path / "state"
    daemon = subprocess.Popen(
        [alone / "intermodald", "--root", root, "--state", state, "--config", _config(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
    )
    try:
        assert daemon.stdout is not None
        assert select.select([daemon.stdout], [], [], 30)[0], "intermodald said nothing within 30 s"
        line = os.read(daemon.stdout.fileno(), 4096).decode()
        assert line.endswith(f" ready on {state}/intermodal.sock\n"), line or daemon.communicate(timeout=30)
        assert line.startswith("intermodald ")
        daemon.terminate()
        _, errors = daemon.communicate(timeout=30)
    finally:
        if daemon.poll() is None:
            daemon.kill()
            daemon.communicate(timeout=30)
    assert daemon.returncode == 0, errors
    assert b"Traceback" not in errors


def test_a_section_of_a_plugin_that_is_not_installed_says_so(alone: Path, tmp_path: Path) -> None:
    config = _config(tmp_path, "[snapshotters.overlayfs]\nrequired = true\n")
    done = subprocess.run(
        [alone / "intermodald", "--root", tmp_path / "root", "--state", tmp_path / "state", "--config", config],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert f"{config}:2" in done.stderr
    assert "overlayfs" in done.stderr
    assert "Traceback" not in done.stderr


def _config(directory: Path, text: str = "") -> Path:
    path = directory / "config.toml"
    path.write_text(f"version = 1\n{text}")
    return path
