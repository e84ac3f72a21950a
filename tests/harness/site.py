"""Distributions that a daemon of a test finds installed: a module and its entry point, in a directory of their own."""

from __future__ import annotations

from pathlib import Path

__all__ = ["install"]


def install(directory: Path, kind: str, name: str, source: str) -> dict[str, str]:
    """Install `source`, a module with the attribute `plugin`, as the plugin `name` of a kind; the daemon's environment for it.

    More than one may go into one directory.
    """
    module = f"sample_{kind}_{name}"
    (directory / f"{module}.py").write_text(source)
    info = directory / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module.replace('_', '-')}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[intermodal.{kind}]\n{name} = {module}:plugin\n")
    return {"PYTHONPATH": str(directory)}
