"""Settles layers that were applied alone: each is held against what turned out to be below it.

What is below is looked up as overlayfs does it, layer by layer, from open directory to open directory and never through
a link: a whiteout or another kind of file ends the search, an opaque directory ends it after itself, and what is found in
several layers is one directory with the attributes of the topmost.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence, Set
from contextlib import ExitStack, contextmanager
from typing import Final

from intermodal_core.contracts.common import Mount
from intermodal_core.contracts.differs import Alone, Residue
from intermodal_core.errors import FailedPrecondition, from_os_error

from intermodal_tar.tree import OPEN_DIRECTORY, copy_xattrs, is_whiteout

__all__ = ["settle"]

_ABSENT: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_OPAQUE: Final = ("trusted.overlay.opaque", "user.overlay.opaque")
_REDIRECTS: Final = ("trusted.overlay.redirect", "user.overlay.redirect")
_DEFAULT_ACL: Final = "system.posix_acl_default"


class _NeedsParent(Exception):
    """This layer has to be applied onto its parent."""


def settle(layers: Sequence[Alone], below: Sequence[Mount]) -> int:
    """How many of `layers`, from the first, are now as they would be applied in turn on top of `below`."""
    stack = _directories(below) if below else []
    try:
        for number, layer in enumerate(layers):
            directories = _directories(layer.mounts)
            if len(directories) != 1:
                raise FailedPrecondition("A layer that was applied alone is one directory, and these mounts are more")
            try:
                _settle(directories[0], stack, layer.residue)
            except _NeedsParent:
                return number
            stack = directories + stack
    except OSError as error:
        raise from_os_error(error, "settle a layer") from error
    return len(layers)


def _directories(mounts: Sequence[Mount]) -> list[str]:
    """The directories of one mount, the topmost first."""
    if len(mounts) == 1 and not mounts[0].target.strip("/"):
        mount = mounts[0]
        if mount.type == "bind":
            return [mount.source]
        words = dict(option.partition("=")[::2] for option in mount.options)
        lowers = words.get("lowerdir", "")
        if mount.type == "overlay" and lowers and "upperdir" not in words and "\\" not in lowers and "::" not in lowers:
            return lowers.split(":")
    raise FailedPrecondition(f"These mounts are no view of directories that layers can be held against: {mounts!r}")


def _settle(directory: str, stack: Sequence[str], residue: Residue) -> None:
    with ExitStack() as opened:
        root = _open(opened, directory)
        lowers = [_open(opened, path) for path in stack]
        opaque = set(residue.opaque)
        # What makes it impossible comes first: nothing is changed then.
        copies = []
        for path in residue.assumed:
            with _find(lowers, path) as (kind, _):
                if kind == "other":
                    raise _NeedsParent
        for path in residue.implied:
            with _find(lowers, path) as (kind, directories):
                if kind == "other":
                    raise _NeedsParent
                if directories and _is_directory(root, path):  # no later entry of the layer has replaced it
                    if _DEFAULT_ACL in os.listxattr(directories[0]):
                        raise _NeedsParent  # what was made in it would have inherited
                    copies.append((path, os.dup(directories[0])))
                    opened.callback(os.close, copies[-1][1])
        for path in residue.whiteouts:
            with _find(lowers, path, opaque) as (kind, _):
                if not kind:
                    _drop_whiteout(root, path)
        for path in residue.opaque:
            with _find(lowers, path, opaque - {path}) as (kind, _):
                if kind == "directory":
                    _mark_opaque(root, path)
        # The deepest first: their attributes do not change those of what they are in.
        for path, source in reversed(copies):
            target = _open_below(root, path)
            try:
                _copy_attributes(source, target)
            finally:
                os.close(target)


@contextmanager
def _find(lowers: Sequence[int], path: str, opaque: Set[str] = frozenset()) -> Iterator[tuple[str, list[int]]]:
    """What layers below show at `path`: ("directory", open directories, the topmost first), ("other", []) or ("", []).

    `opaque` are paths at and below which the layer hides everything.
    """
    current = [os.dup(lower) for lower in lowers]
    kind = "directory" if current else ""
    try:
        walked = ""
        for name in path.split("/") if path else []:
            walked = f"{walked}/{name}" if walked else name
            if kind != "directory" or walked in opaque:
                _close_all(current)
                kind = ""
                break
            kind, below = _step(current, name)
            _close_all(current)
            current += below
        yield kind, current
    finally:
        _close_all(current)


def _step(directories: Sequence[int], name: str) -> tuple[str, list[int]]:
    found: list[int] = []
    try:
        for directory in directories:
            try:
                fd = os.open(_bytes(name), OPEN_DIRECTORY, dir_fd=directory)
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                status = os.stat(_bytes(name), dir_fd=directory, follow_symlinks=False)
                return ("directory" if found else "" if is_whiteout(status) else "other"), found
            found.append(fd)
            attributes = os.listxattr(fd)
            if any(attribute in attributes for attribute in _REDIRECTS):
                raise _NeedsParent
            if any(attribute in attributes and os.getxattr(fd, attribute) == b"y" for attribute in _OPAQUE):
                break
    except BaseException:
        _close_all(found)
        raise
    return ("directory" if found else ""), found


def _drop_whiteout(root: int, path: str) -> None:
    """Remove a whiteout that hides nothing; its directory keeps its times."""
    parent, _, name = path.rpartition("/")
    try:
        directory = _open_below(root, parent)
    except OSError as error:
        if error.errno in _ABSENT:
            return
        raise
    try:
        try:
            status = os.stat(_bytes(name), dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return
        if is_whiteout(status):
            times = os.fstat(directory)
            os.unlink(_bytes(name), dir_fd=directory)
            os.utime(directory, ns=(times.st_atime_ns, times.st_mtime_ns))
    finally:
        os.close(directory)


def _mark_opaque(root: int, path: str) -> None:
    try:
        directory = _open_below(root, path)
    except OSError as error:
        if error.errno in _ABSENT:
            return  # a later entry of the layer replaced it
        raise
    try:
        os.setxattr(directory, _OPAQUE[0], b"y")
    finally:
        os.close(directory)


def _copy_attributes(source: int, target: int) -> None:
    status = os.fstat(source)
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, status.st_mode & 0o7777)
    copy_xattrs(source, target)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _open(opened: ExitStack, path: str) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    opened.callback(os.close, fd)
    return fd


def _open_below(root: int, path: str) -> int:
    """The directory at `path`, through no link."""
    fd = os.dup(root)
    for name in path.split("/") if path else []:
        try:
            below = os.open(_bytes(name), OPEN_DIRECTORY, dir_fd=fd)
        finally:
            os.close(fd)
        fd = below
    return fd


def _is_directory(root: int, path: str) -> bool:
    try:
        os.close(_open_below(root, path))
    except OSError as error:
        if error.errno in _ABSENT:
            return False
        raise
    return True


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
    fds.clear()
