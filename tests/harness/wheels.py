"""Distributions as wheels, and a virtual environment that has ours and into which pip installs them."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

__all__ = ["Environment", "wheel"]


def wheel(
    directory: Path, name: str, files: Mapping[str, str], points: Mapping[str, str], version: str = "1.0"
) -> Path:
    """Write a wheel of `files` by path with the entry points `points`, "KIND.NAME" to "module:attribute"."""
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    groups: dict[str, list[str]] = {}
    for point, value in points.items():
        kind, _, id = point.partition(".")
        groups.setdefault(f"[intermodal.{kind}]", []).append(f"{id} = {value}")
    content = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "\n".join(line for group, lines in groups.items() for line in [group, *lines])
        + "\n",
    }
    content[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*content, f"{info}/RECORD"])
    path = directory / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for each, text in content.items():
            archive.writestr(each, text)
    return path


class Environment:
    """A virtual environment whose Python also finds what this one finds."""

    def __init__(self, path: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(path)], check=True, timeout=120)
        self.python = path / "bin" / "python"
        (self.site,) = path.glob("lib/python*/site-packages")
        ours = [entry for entry in sys.path if entry and Path(entry).is_dir()]
        (self.site / "ours.pth").write_text("".join(f"{entry}\n" for entry in ours))

    @property
    def command(self) -> list[str]:
        """What starts a daemon in it."""
        return [str(self.python), "-m", "intermodal_core.daemon"]

    def install(self, *wheels: Path) -> None:
        """pip install."""
        self._pip("install", "--no-index", "--no-deps", "--upgrade", *map(str, wheels))

    def uninstall(self, *names: str) -> None:
        """pip uninstall."""
        self._pip("uninstall", "--yes", *names)

    def _pip(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "pip", "--python", str(self.python), "--disable-pip-version-check", "-q"]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=180, check=False)
        assert done.returncode == 0, done.stderr
