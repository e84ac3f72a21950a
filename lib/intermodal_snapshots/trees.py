"""Directory trees of any size and depth, walked by descriptors: remove, measure, copy attributes.

A tree that a container wrote is hostile: names may add up to paths longer than the kernel takes, links may point
anywhere. So nothing here uses a path below the top. A walk keeps one descriptor, goes down by openat(2) without
following links, and comes back by `..`, checking that this is the directory it came from.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from intermodal_core.contracts.common import Usage
from intermodal_core.errors import Cancelled, FailedPrecondition

from intermodal_snapshots.mounts import mounts_below

__all__ = ["Descent", "copy_attributes", "disk_usage", "remove_tree"]

_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OVERLAY_XATTRS: Final = ("trusted.overlay.", "user.overlay.")
_BLOCK: Final = 512  # the unit of st_blocks, whatever the filesystem's own
_BATCH: Final = 4096


class Descent:
    """A position in the tree at `top`, as an open directory: `fd`."""

    def __init__(self, top: str | Path) -> None:
        self.fd = os.open(top, _FLAGS)
        self._ancestors: list[tuple[int, int]] = []

    @property
    def depth(self) -> int:
        """How far below the top."""
        return len(self._ancestors)

    def down(self, name: str) -> None:
        """Into the subdirectory `name`. Raises OSError: NotADirectoryError or ELOOP where it is none (any more)."""
        here = os.fstat(self.fd)
        child = os.open(name, _FLAGS, dir_fd=self.fd)
        os.close(self.fd)
        self.fd = child
        self._ancestors.append((here.st_dev, here.st_ino))

    def up(self) -> None:
        """Back. Raises Cancelled where the directory was moved away meanwhile."""
        parent = os.open("..", _FLAGS, dir_fd=self.fd)
        os.close(self.fd)
        self.fd = parent
        there = os.fstat(parent)
        if (there.st_dev, there.st_ino) != self._ancestors.pop():
            raise Cancelled("A directory was moved while its tree was walked")

    def close(self) -> None:
        """Let go of the descriptor."""
        os.close(self.fd)


@contextmanager
def _descent(top: str | Path) -> Iterator[Descent]:
    descent = Descent(top)
    try:
        yield descent
    finally:
        descent.close()


def remove_tree(top: Path, stopped: Callable[[], bool] = lambda: False) -> None:
    """Delete the directory `top` and all below it; nothing to do where there is none.

    Follows no link, holds one descriptor whatever the depth and little memory whatever the size. `stopped` is asked
    once a directory; Cancelled is raised when it says so, and a later call goes on. Raises FailedPrecondition where
    something is mounted below `top` (what is mounted there is not ours to delete), and OSError.
    """
    try:
        descent = Descent(top)
    except FileNotFoundError:
        return
    try:
        if mounted := mounts_below(top):
            raise FailedPrecondition(f"{top} cannot be deleted: something is mounted on {mounted[0]}")
        frames = [("", _unlink_files(descent.fd))]
        while True:
            if stopped():
                raise Cancelled(f"Deleting {top} was interrupted")
            name, directories = frames[-1]
            if directories:
                child = directories.pop()
                try:
                    descent.down(child)
                except FileNotFoundError:
                    continue
                frames.append((child, _unlink_files(descent.fd)))
            elif more := _unlink_files(descent.fd):
                directories.extend(more)
            elif len(frames) == 1:
                break
            else:
                descent.up()
                frames.pop()
                _rmdir(name, descent.fd)
        _rmdir(str(top), None)
    finally:
        descent.close()


def _unlink_files(fd: int) -> list[str]:
    """Unlink what is no directory; the names of some of the directories (a rescan finds the others)."""
    directories: list[str] = []
    with os.scandir(fd) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                directories.append(entry.name)
                if len(directories) == _BATCH:
                    break
            else:
                try:
                    os.unlink(entry.name, dir_fd=fd)
                except FileNotFoundError:
                    pass
    return directories


def _rmdir(name: str, fd: int | None) -> None:
    try:
        os.rmdir(name, dir_fd=fd)
    except FileNotFoundError:
        pass


def disk_usage(top: Path) -> Usage:
    """Bytes allocated and inodes at and below `top`; a hard-linked inode counts once.

    The tree may be in use: what vanishes meanwhile is not counted. Raises OSError.
    """
    linked: set[int] = set()
    with _descent(top) as descent:
        size = os.fstat(descent.fd).st_blocks
        inodes = 1
        frames = [_measure(descent.fd, linked)]
        while frames:
            blocks, count, directories = frames[-1]
            if directories:
                try:
                    descent.down(directories.pop())
                except (FileNotFoundError, NotADirectoryError):
                    continue
                except OSError as error:
                    if error.errno != errno.ELOOP:
                        raise
                    continue
                frames.append(_measure(descent.fd, linked))
            else:
                size += blocks
                inodes += count
                frames.pop()
                if frames:
                    descent.up()
    return Usage(size * _BLOCK, inodes)


def _measure(fd: int, linked: set[int]) -> tuple[int, int, list[str]]:
    """Blocks and inodes of a directory's entries (not of itself), and the names of its subdirectories."""
    blocks = count = 0
    directories = []
    with os.scandir(fd) as entries:
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if entry.is_dir(follow_symlinks=False):
                directories.append(entry.name)
            elif status.st_nlink > 1:
                if status.st_ino in linked:
                    continue
                linked.add(status.st_ino)
            blocks += status.st_blocks
            count += 1
    return blocks, count, directories


def copy_attributes(source: int, target: int, *, overlay: bool = True) -> None:
    """Give the open file `target` the owner, xattrs, mode and times (ns) of `source`.

    In this order, since a change of owner drops capabilities and set-id bits. Without `overlay`, the marks that
    overlayfs keeps in xattrs stay behind. Raises OSError.
    """
    status = os.fstat(source)
    os.fchown(target, status.st_uid, status.st_gid)
    for name in os.listxattr(source):
        if overlay or not name.startswith(_OVERLAY_XATTRS):
            os.setxattr(target, name, os.getxattr(source, name))
    os.fchmod(target, status.st_mode & 0o7777)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
