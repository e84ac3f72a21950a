"""The hooks: plain methods, usable without a daemon."""

from __future__ import annotations

from typing import Any

from intermodal_core.contracts.hooks import ContainerInfo
from intermodal_core.errors import InvalidArgument, ResourceExhausted
from intermodal_core.hooks import hookimpl

__all__ = ["LABEL", "ScratchHooks"]

LABEL = "scratch/needs"


class ScratchHooks:
    """For containers on one snapshotter, which is told apart by the name that the config gives it."""

    def __init__(self, snapshotter: str, limit: int) -> None:
        self._snapshotter = snapshotter
        self._limit = limit

    @hookimpl
    def before_create(self, container: ContainerInfo) -> None:
        """Refuse what says that it needs more than there is."""
        needed = container.labels.get(LABEL, "0")
        if container.snapshotter != self._snapshotter:
            return
        if not (needed.isascii() and needed.isdigit()):
            raise InvalidArgument(f"the label {LABEL} of {container.id} is {needed!r}: write a number of bytes")
        if int(needed) > self._limit:
            raise ResourceExhausted(f"{container.id} needs {needed} bytes, and the limit is {self._limit}")

    @hookimpl
    def adjust_spec(self, spec: dict[str, Any], container: ContainerInfo) -> dict[str, Any] | None:
        """Tell it."""
        if container.snapshotter != self._snapshotter:
            return None
        spec.setdefault("process", {}).setdefault("env", []).append(f"SCRATCH_LIMIT={self._limit}")
        return spec
