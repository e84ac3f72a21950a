"""Bundles: the directory that a runtime gets."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Collection
from pathlib import Path

import msgspec
from intermodal_core.errors import InvalidArgument

__all__ = ["make", "remove", "sweep"]

log = logging.getLogger("intermodal.tasks")


def make(path: str, container: str, spec: bytes) -> None:
    """Write `config.json`. Raises InvalidArgument for a spec that no runtime could start."""
    _check_spec(container, spec)
    os.makedirs(path, mode=0o711, exist_ok=True)
    # Whoever may go through the bundle to its root need not read the environment of what runs there.
    with open(os.open(os.path.join(path, "config.json"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(spec)


def _check_spec(id: str, spec: bytes) -> None:
    try:
        document = msgspec.json.decode(spec)
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"the spec of the container {id} is not JSON: {error}") from error
    process = document.get("process") if isinstance(document, dict) else None
    if not isinstance(process, dict) or not process.get("args"):
        raise InvalidArgument(f"the spec of the container {id} lacks process.args: it names no command")


def remove(path: str) -> None:
    """Remove a bundle. What is mounted at its rootfs is a snapshot's: that is never gone into."""
    try:
        os.rmdir(os.path.join(path, "rootfs"))
    except FileNotFoundError:
        pass
    except OSError as error:
        log.error("the bundle %s stays, its rootfs is still in use: %s", path, error)
        return
    shutil.rmtree(path, ignore_errors=True)


def sweep(directory: Path, known: Collection[str]) -> None:
    """Remove every bundle that is not `known`: its task was forgotten, and a crash came before it went."""
    for path in directory.glob("*/*"):
        if str(path) not in known:
            remove(str(path))
