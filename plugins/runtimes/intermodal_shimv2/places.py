"""Where the files of a foreign shim's task are, all of them in its bundle."""

from __future__ import annotations

import json
import os
from typing import NamedTuple

__all__ = ["Places", "Served"]


class Served(NamedTuple):
    """Where a shim serves, as it says: a unix socket's path, and the version of the task API."""

    path: str
    version: int


class Places:
    """Paths in the bundle of a task."""

    def __init__(self, bundle: str, namespace: str, id: str) -> None:
        self.bundle = bundle
        self.namespace = namespace
        self.id = id
        self.log = os.path.join(bundle, "shim.log")

    def fifo(self, exec_id: str, stream: str, make: bool = False) -> str:
        """Of a process's stream."""
        directory = os.path.join(self.bundle, "fifos")
        path = os.path.join(directory, f"{f'exec-{exec_id}' if exec_id else 'init'}-{stream}")
        if make:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            _make_fifo(path)
        return path

    def log_fifo(self, make: bool = False) -> str:
        """Where the shim writes its log."""
        path = os.path.join(self.bundle, "log")
        if make:
            _make_fifo(path)
        return path

    def remember(self, served: Served, pid: int, binary: str) -> None:
        """Keep where the shim serves, its process, and its file."""
        kept = {"address": served.path, "version": served.version, "pid": pid, "binary": binary}
        path = os.path.join(self.bundle, "bootstrap.json")
        with open(f"{path}.new", "w", encoding="utf-8") as file:
            json.dump(kept, file)
        os.replace(f"{path}.new", path)

    def served(self) -> Served | None:
        """Where the shim serves; None where that was not known yet."""
        kept = self._kept()
        return Served(str(kept["address"]), int(str(kept["version"]))) if kept.get("address") else None

    def shim(self) -> tuple[int, str]:
        """The shim's process and its file; 0 where that was not kept."""
        kept = self._kept()
        return (int(str(kept["pid"])), str(kept["binary"])) if kept else (0, "")

    def streams(self) -> dict[str, tuple[str, str, str, bool]]:
        """The streams of processes that were added and not deleted, by exec id: stdin, stdout, stderr, terminal."""
        try:
            with open(os.path.join(self.bundle, "streams.json"), encoding="utf-8") as file:
                return {exec_id: tuple(streams) for exec_id, streams in json.load(file).items()}
        except (OSError, ValueError, AttributeError):
            return {}

    def remember_streams(self, exec_id: str, streams: tuple[str, str, str, bool] | None) -> None:
        """Keep a process's streams; None forgets them."""
        kept = {key: value for key, value in self.streams().items() if key != exec_id}
        if streams is not None:
            kept[exec_id] = streams
        path = os.path.join(self.bundle, "streams.json")
        with open(f"{path}.new", "w", encoding="utf-8") as file:
            json.dump(kept, file)
        os.replace(f"{path}.new", path)

    def _kept(self) -> dict[str, object]:
        try:
            with open(os.path.join(self.bundle, "bootstrap.json"), encoding="utf-8") as file:
                kept = json.load(file)
            return kept if isinstance(kept, dict) and {"address", "version", "pid", "binary"} <= kept.keys() else {}
        except (OSError, ValueError):
            return {}


def _make_fifo(path: str) -> None:
    try:
        os.mkfifo(path, 0o600)
    except FileExistsError:
        pass
