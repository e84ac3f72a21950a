"""A plugin of hooks: what containers get in their environment, and what may not be pulled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from intermodal_core.contracts.hooks import ContainerInfo, Pull
from intermodal_core.errors import PermissionDenied
from intermodal_core.hooks import hookimpl

__all__ = ["SampleHooks"]


class SampleHooks:
    """Each method marked `hookimpl` implements the hook of its name of `intermodal_core.contracts.hooks`."""

    def __init__(self, environment: Mapping[str, str], refused: Sequence[str]) -> None:
        self._environment = dict(environment)
        self._refused = tuple(refused)

    @hookimpl
    def before_pull(self, pull: Pull) -> Pull | None:
        """Deny what begins with a refused prefix; raising is how a hook denies."""
        for prefix in self._refused:
            if pull.reference.startswith(prefix):
                raise PermissionDenied(f"{pull.reference} may not be pulled: nothing below {prefix} may")
        return None

    @hookimpl
    def adjust_spec(self, spec: dict[str, Any], container: ContainerInfo) -> dict[str, Any] | None:
        """Add to the environment what is not there; returning the spec is how a hook changes it."""
        environment: list[str] = spec.setdefault("process", {}).setdefault("env", [])
        there = {entry.partition("=")[0] for entry in environment}
        environment += [f"{key}={value}" for key, value in self._environment.items() if key not in there]
        return spec
