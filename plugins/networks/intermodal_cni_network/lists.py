"""The networks that there are: our own directory, then others' that are only read.

A directory is looked at when a network is asked for, and a file parsed when it changed: so a list is seen as soon as it is
there, and no watch can die with a directory that is made anew.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from intermodal_cni.lists import NetworkList, load
from intermodal_core.errors import InvalidArgument, NotFound

__all__ = ["Found", "Lists"]

_SUFFIXES = (".conflist", ".conf", ".json")


@dataclass(frozen=True, slots=True)
class Found:
    """A network, or the file that was to be one and why it is none."""

    path: Path
    own: bool
    network: NetworkList | None
    error: str = ""

    @property
    def name(self) -> str:
        """The network's name; of a bad file the file's."""
        return self.network.name if self.network else self.path.name


class Lists:
    """Networks in the directory `own`, and those of the directories `others` that have other names."""

    def __init__(self, own: Path, others: tuple[Path, ...]) -> None:
        self.own = own
        self._others = others
        self._lock = threading.Lock()
        self._parsed: dict[Path, tuple[tuple[int, int, int], Found]] = {}

    def every(self) -> list[Found]:
        """All, our own first, each directory's by file name; of one name the first counts."""
        found, names = [], set()
        for directory in (self.own, *self._others):
            for each in self._directory(directory):
                if each.network is None or each.name not in names:
                    found.append(each)
                    names.add(each.name)
        return found

    def get(self, name: str) -> NetworkList:
        """The network of that name; "" is the first that there is.

        Raises NotFound naming those there are, InvalidArgument for one whose file is bad.
        """
        found = self.every()
        for each in found:
            if each.network is not None and name in ("", each.name):
                return each.network
        bad = next((each for each in found if each.error and name in ("", each.path.name, each.path.stem)), None)
        if bad is not None:
            raise InvalidArgument(bad.error)
        names = ", ".join(each.name for each in found if each.network) or "none"
        raise NotFound(f"there is no network {name or 'at all'}; there are: {names}")

    def _directory(self, directory: Path) -> Iterator[Found]:
        try:
            names = sorted(os.listdir(directory))
        except (FileNotFoundError, NotADirectoryError):
            return
        for name in names:
            if name.endswith(_SUFFIXES) and not name.startswith("."):
                found = self._file(directory / name)
                if found is not None:
                    yield found

    def _file(self, path: Path) -> Found | None:
        try:
            known = os.stat(path)
        except OSError:
            return None  # removed meanwhile
        stamp = (known.st_mtime_ns, known.st_size, known.st_ino)
        with self._lock:
            if path in self._parsed and self._parsed[path][0] == stamp:
                return self._parsed[path][1]
        own = path.parent == self.own
        try:
            found = Found(path, own, load(path))
        except InvalidArgument as error:
            found = Found(path, own, None, error.message)
        except OSError as error:
            return Found(path, own, None, f"{path}: {error.strerror}")
        with self._lock:
            self._parsed[path] = (stamp, found)
        return found
