"""Adds the libraries of intermodal-core, which live in the repository's lib/, to its wheel and sdist."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Libraries(BuildHookInterface):  # type: ignore[type-arg]
    """An editable install finds them by its path line; everything else gets a copy."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Map each library to its place; inside an sdist they lie below lib/."""
        if version == "editable":
            return
        root = Path(self.root)
        lib = root / "lib" if (root / "lib").is_dir() else root.parent / "lib"
        below = "" if self.target_name == "wheel" else "lib/"
        for name in self.config["libraries"]:
            build_data["force_include"][str(lib / name)] = f"{below}{name}"
