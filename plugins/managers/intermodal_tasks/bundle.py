"""Bundles: the directory that a runtime gets."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Collection
from pathlib import Path

import msgspec
from intermodal_core.contracts.managers.store import Container
from intermodal_core.errors import InvalidArgument

from intermodal_tasks.tables import RunRow, TaskRow

__all__ = ["Kept", "make", "remove", "sweep", "unknown"]

log = logging.getLogger("intermodal.tasks")


class Kept(msgspec.Struct, frozen=True):
    """What a bundle tells of its task should the records be lost: the rows, `task` without a pid."""

    container: Container
    task: TaskRow
    run: RunRow | None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Kept).decode


def make(path: str, container: str, spec: bytes, kept: Kept) -> None:
    """Write `config.json` and `records`. Raises InvalidArgument for a spec that no runtime could start."""
    _check_spec(container, spec)
    os.makedirs(path, mode=0o711, exist_ok=True)
    # Whoever may go through the bundle to its root need not read the environment of what runs there.
    for name, data in (("config.json", spec), ("records", _encode(kept))):
        with open(os.open(os.path.join(path, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)


def unknown(directory: Path, known: Collection[str]) -> list[Kept]:
    """What the bundles that are not `known` tell of their tasks; those that are not whole tell nothing."""
    found = []
    for path in directory.glob("*/*"):
        if str(path) in known:
            continue
        try:
            kept = _decode((path / "records").read_bytes())
            pid = int((path / "init.pid").read_text())
        except (OSError, ValueError, msgspec.MsgspecError):
            continue
        found.append(msgspec.structs.replace(kept, task=msgspec.structs.replace(kept.task, pid=pid)))
    return found


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
