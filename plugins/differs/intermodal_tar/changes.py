"""What turns one tree into another: both are walked by open directories, side by side, never through a link.

Where a file's change time is that of its like below it is that file, and nothing of it is read; of another one with the
same attributes the contents are compared. Of an overlay, `guide` is the upper directory: a directory that is not in it has
not changed, and is not gone into.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from intermodal_tar.tree import OPEN_DIRECTORY, is_whiteout, join

__all__ = ["Change", "changes"]

_PIECE: Final = 1 << 20


@dataclass(slots=True)
class Change:
    """A path that is written, or (`status` None) hidden; parents come before what is in them."""

    path: bytes
    status: os.stat_result | None


def changes(lower: int, upper: int, guide: int = -1) -> list[Change]:
    """What turns the tree open as `lower` (-1: an empty one) into that open as `upper`, in order of their names.

    Directories on the way to a change are listed, too. Of files that are linked to one that is listed, all are.
    """
    walk = _Walk(upper)
    root = walk.compare(b"", lower, upper, guide, walk.root_changed(lower, upper))
    found = ([Change(b"", os.fstat(upper))] if root else []) + walk.found
    return walk.with_links(found)


class _Walk:
    def __init__(self, top: int) -> None:
        self._top = top
        self.found: list[Change] = []
        #: Files with several links that have not changed: by inode.
        self._linked: dict[tuple[int, int], list[Change]] = {}

    @staticmethod
    def root_changed(lower: int, upper: int) -> bool:
        return lower < 0 or not _alike(os.fstat(lower), os.fstat(upper)) or _xattrs(lower) != _xattrs(upper)

    def compare(self, path: bytes, lower: int, upper: int, guide: int, changed: bool) -> bool:
        """Collect what has changed in one directory and below; whether the directory is to be listed itself."""
        below = _listed(lower) if lower >= 0 else {}
        above = _listed(upper)
        begun = len(self.found)
        for name in sorted(below.keys() | above.keys()):
            old, new = below.get(name), above.get(name)
            where = join(path, name)
            if new is None:
                self.found.append(Change(where, None))
                continue
            if stat.S_ISSOCK(new.st_mode):
                continue  # no archive can hold one
            if old is not None and stat.S_IFMT(old.st_mode) != stat.S_IFMT(new.st_mode):
                old = None
            if not stat.S_ISDIR(new.st_mode):
                self._file(where, name, lower, upper, old, new)
                continue
            guided = _open_in(guide, name)
            try:
                if old is not None and guide >= 0 and guided < 0 and _same(old, new):
                    continue
                self._directory(where, name, lower if old is not None else -1, upper, guided, old, new)
            finally:
                if guided >= 0:
                    os.close(guided)
        if not changed and len(self.found) == begun:
            return False
        if path:
            self.found.insert(begun, Change(path, os.fstat(upper)))
        return True

    def _directory(
        self,
        path: bytes,
        name: bytes,
        lower: int,
        upper: int,
        guide: int,
        old: os.stat_result | None,
        new: os.stat_result,
    ) -> None:
        inside = os.open(name, OPEN_DIRECTORY, dir_fd=upper)
        try:
            under = os.open(name, OPEN_DIRECTORY, dir_fd=lower) if lower >= 0 else -1
            try:
                changed = old is None or not _alike(old, new)
                if not changed and not (old is not None and _same(old, new)):
                    changed = _xattrs(under) != _xattrs(inside)
                self.compare(path, under, inside, guide, changed)
            finally:
                if under >= 0:
                    os.close(under)
        finally:
            os.close(inside)

    def _file(
        self, path: bytes, name: bytes, lower: int, upper: int, old: os.stat_result | None, new: os.stat_result
    ) -> None:
        change = Change(path, new)
        if old is not None and (_same(old, new) or (_alike(old, new) and _equal(name, lower, upper, new))):
            if new.st_nlink > 1:
                self._linked.setdefault((new.st_dev, new.st_ino), []).append(change)
            return
        self.found.append(change)

    def with_links(self, found: list[Change]) -> list[Change]:
        """Add the unchanged names of files that have a changed one, so that a layer keeps them one file."""
        inodes = {
            (change.status.st_dev, change.status.st_ino)
            for change in found
            if change.status is not None and change.status.st_nlink > 1 and not stat.S_ISDIR(change.status.st_mode)
        }
        added = [change for inode in inodes for change in self._linked.get(inode, [])]
        if not added:
            return found
        known = {change.path for change in found}
        for change in list(added):
            parts = change.path.split(b"/")
            for end in range(1, len(parts)):
                parent = b"/".join(parts[:end])
                if parent not in known:
                    known.add(parent)
                    added.append(Change(parent, os.stat(parent, dir_fd=self._top, follow_symlinks=False)))
        return sorted([*found, *added], key=lambda change: change.path.split(b"/"))


def _listed(directory: int) -> dict[bytes, os.stat_result]:
    return {os.fsencode(name): os.stat(name, dir_fd=directory, follow_symlinks=False) for name in os.listdir(directory)}


def _open_in(directory: int, name: bytes) -> int:
    if directory < 0:
        return -1
    try:
        return os.open(name, OPEN_DIRECTORY, dir_fd=directory)
    except OSError:
        return -1


def _alike(old: os.stat_result, new: os.stat_result) -> bool:
    """Whether their attributes are the same, as far as a layer holds them."""
    return (
        old.st_mode == new.st_mode
        and old.st_uid == new.st_uid
        and old.st_gid == new.st_gid
        and old.st_mtime_ns == new.st_mtime_ns
        and old.st_rdev == new.st_rdev
        and (stat.S_ISDIR(new.st_mode) or old.st_size == new.st_size)
    )


def _same(old: os.stat_result, new: os.stat_result) -> bool:
    """Whether they are one inode, seen twice: a file that was copied has another change time."""
    return old.st_ctime_ns == new.st_ctime_ns and _alike(old, new)


def _equal(name: bytes, lower: int, upper: int, status: os.stat_result) -> bool:
    """Whether two files with the same attributes have the same contents and extended attributes."""
    if is_whiteout(status):
        return True
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(name, dir_fd=lower) == os.readlink(name, dir_fd=upper)
    if not stat.S_ISREG(status.st_mode):
        return True
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    old = os.open(name, flags, dir_fd=lower)
    try:
        new = os.open(name, flags, dir_fd=upper)
        try:
            return _xattrs(old) == _xattrs(new) and all(a == b for a, b in _pieces(old, new))
        finally:
            os.close(new)
    finally:
        os.close(old)


def _pieces(old: int, new: int) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while True:
        a, b = os.pread(old, _PIECE, at), os.pread(new, _PIECE, at)
        if not a and not b:
            return
        yield a, b
        at += len(a) or len(b)


def _xattrs(fd: int) -> dict[str, bytes]:
    return {name: os.getxattr(fd, name) for name in os.listxattr(fd) if not name.startswith("trusted.")}
