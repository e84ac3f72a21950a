"""The adapters: `[snapshotters.scratch]` and `[hooks.scratch]` of the config."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from intermodal_core.plugin import Context, Plugin

from scratch_plugins.hooks import ScratchHooks
from scratch_plugins.snapshotter import ScratchSnapshotter

__all__ = ["HookConfig", "SnapshotterConfig", "hooks", "snapshotter"]

_GIB = 1 << 30


class SnapshotterConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of `[snapshotters.scratch]`, version 2."""

    limit: Annotated[int, msgspec.Meta(ge=0, description="Bytes that a snapshot may have; 0: any number.")] = _GIB


class HookConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of `[hooks.scratch]`."""

    snapshotter: Annotated[str, msgspec.Meta(description="Whose containers are told.")] = "scratch"
    limit: Annotated[int, msgspec.Meta(ge=0, description="Bytes that they may write.")] = _GIB


def in_bytes(options: dict[str, Any]) -> dict[str, Any]:
    """Version 1 to 2: the limit was in MiB."""
    if "limit_mb" in options:
        options["limit"] = options.pop("limit_mb") << 20
    return options


def _make_snapshotter(context: Context[SnapshotterConfig]) -> ScratchSnapshotter:
    return ScratchSnapshotter(context.root_dir(), context.config.limit)


def _make_hooks(context: Context[HookConfig]) -> ScratchHooks:
    return ScratchHooks(context.config.snapshotter, context.config.limit)


snapshotter = Plugin(factory=_make_snapshotter, config=SnapshotterConfig, contract=1, migrations=(in_bytes,))
hooks = Plugin(factory=_make_hooks, config=HookConfig, contract=1)
