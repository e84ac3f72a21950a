"""The directories that a layer writes into: found by name, made where they are implied, held open.

Every step goes from an open directory to one name in it without following links; links are resolved here, absolute ones
and `..` from the root of the tree, as a container would see them. Nothing is ever looked up by a longer path.

Below the tree there may be a `lower` one, the merged view of the layers underneath, when this tree is the upper directory
of an overlay. What overlayfs would do is done then: a directory that is only below is copied up with its owner, mode,
times and extended attributes; a link that is only below is followed; what is hidden by a whiteout or an opaque directory
is not there.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from intermodal_core.errors import InvalidArgument, ResourceExhausted

from intermodal_tar.tarstream import printable

__all__ = [
    "OPEN_DIRECTORY",
    "Directory",
    "InTheWay",
    "NeedsParent",
    "Tree",
    "copy_xattrs",
    "is_whiteout",
    "join",
    "lower_status",
]

OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_LINKS: Final = 40  # as Linux has it
_MAX_OPEN: Final = 400
_MAX_PATH: Final = 4095
_DEFAULT_ACL: Final = "system.posix_acl_default"
_GONE: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_NO_XATTR: Final = (errno.ENODATA, errno.EOPNOTSUPP)


class InTheWay(InvalidArgument):
    """A part of a name is no directory."""


class NeedsParent(Exception):
    """What a layer says depends on what is below it, and it is applied alone."""


class Directory:
    """An open directory. `path` is where it really is, without a leading slash; `lower` its like below, or -1.

    `plain` tells that a new file in it gets the worker's own ids and the mode that is asked for: it is not set-group-id
    and has no default ACL.
    """

    __slots__ = ("fd", "lower", "path", "plain")

    def __init__(self, fd: int, lower: int, path: bytes, plain: bool) -> None:
        self.fd = fd
        self.lower = lower
        self.path = path
        self.plain = plain


class Tree:
    """The tree whose root is the open directory `root`, with `lower` (-1: none) below. Both stay the caller's.

    `written`, where it is a set, collects the path of every directory that was gone through. No directory is deeper than
    `depth`. With `alone` there will be a lower tree of which nothing is known: it may have anything anywhere.
    """

    def __init__(
        self, root: int, lower: int = -1, written: set[bytes] | None = None, depth: int = 512, alone: bool = False
    ) -> None:
        self.alone = alone
        #: Of a tree that is alone: the directories that were made and not listed.
        self.implied: set[bytes] = set()
        #: Those that were listed after they had been made.
        self.assumed: set[bytes] = set()
        self._root_fd = root
        self._lower_fd = lower
        self._depth = depth
        self.written = written
        #: The links that names led through.
        self.followed: set[bytes] = set()
        #: Directories without anything of the lower tree in them, to be marked so once the layer is applied.
        self.opaque: set[bytes] = set()
        #: What each directory's times are to be: path -> (inode, atime, mtime), in ns.
        self._times: dict[bytes, tuple[int, int, int]] = {}
        #: By their real path, and by every name that was asked for.
        self.open: dict[bytes, Directory] = {}
        self.root = self._make_root()

    def _make_root(self) -> Directory:
        lower = self._lower_fd if b"" not in self.opaque else -1
        return Directory(self._root_fd, lower, b"", self._seen(self._root_fd, b""))

    def directory(self, name: bytes, keep: bool = False) -> Directory:
        """The directory `name`, following links inside of the tree, made where there is none.

        What was returned is good until the next call without `keep`. Raises InTheWay where a file is,
        InvalidArgument where links go in circles, ResourceExhausted where it is too deep.
        """
        found = self.open.get(name)
        if found is None:
            if len(self.open) > _MAX_OPEN and not keep:
                self.forget()
            found = self.open[name] = self._walk(name)
        return found

    def forget(self) -> None:
        """Close all directories, after one of them, or a link on the way to it, was removed or became opaque."""
        for directory in {id(directory): directory for directory in self.open.values()}.values():
            if directory.path:
                os.close(directory.fd)
                if directory.lower >= 0:
                    os.close(directory.lower)
        self.open.clear()
        self.root = self._make_root()

    def set_times(self, path: bytes, inode: int, mtime: int) -> None:
        """Remember the times that the directory at `path` is to have."""
        self._times[path] = (inode, mtime, mtime)

    def settle(self) -> None:
        """Give all directories their times, once nothing more is written into them."""
        for path, (inode, atime, mtime) in self._times.items():
            try:
                fd = os.open(path or b".", OPEN_DIRECTORY, dir_fd=self._root_fd)
            except OSError as error:
                if error.errno in _GONE:
                    continue  # a later entry removed it, or put a link in its way
                raise
            try:
                if os.fstat(fd).st_ino == inode:
                    os.utime(fd, ns=(atime, mtime))
            finally:
                os.close(fd)

    def list(self, path: bytes) -> None:
        """The layer lists the directory at `path`."""
        if path in self.implied:
            self.implied.remove(path)
            self.assumed.add(path)

    def make_opaque(self, path: bytes) -> None:
        """Hide what is below the directory at `path`."""
        if self._lower_fd >= 0 or self.alone:
            self.opaque.add(path)
            self.forget()

    def copy_root(self) -> None:
        """Give the root the lower root's attributes, for a layer that does not list it."""
        if self.alone:
            self.implied.add(b"")
        if self._lower_fd >= 0:
            self._copy_attributes(self._lower_fd, self._root_fd, b"")

    def _walk(self, name: bytes) -> Directory:
        current = self.root
        steps = name.split(b"/")[::-1]
        links = 0
        while steps:
            step = steps.pop()
            if step in (b"", b"."):
                continue
            if step == b"..":
                current = self.directory(current.path.rpartition(b"/")[0], keep=True)
                continue
            path = join(current.path, step)
            if path.count(b"/") >= self._depth:
                raise ResourceExhausted(
                    f"The layer nests directories deeper than {self._depth}, the limit of this differ"
                )
            if len(path) > _MAX_PATH:
                raise InvalidArgument(
                    f"The layer has the path {printable(path)} of {len(path)} bytes; Linux takes {_MAX_PATH}"
                )
            known = self.open.get(path)
            if known is not None and known.path == path:
                current = known
                continue
            found = self._step(current, step, path)
            if isinstance(found, Directory):
                current = self.open[path] = found
                if self.written is not None:
                    self.written.add(path)
                continue
            links += 1
            if links > _MAX_LINKS:
                raise InvalidArgument(f"The layer writes below {printable(name)}, whose links go in circles")
            steps += found.split(b"/")[::-1]
            if found.startswith(b"/"):
                current = self.root
        return current

    def _step(self, parent: Directory, name: bytes, path: bytes) -> Directory | bytes:
        """The directory `name` in `parent`, or where the link of that name leads."""
        hidden = False
        try:
            fd = os.open(name, OPEN_DIRECTORY, dir_fd=parent.fd)
        except FileNotFoundError:
            pass
        except NotADirectoryError:
            status = os.stat(name, dir_fd=parent.fd, follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                self.followed.add(path)
                return os.readlink(name, dir_fd=parent.fd)
            if not ((self._lower_fd >= 0 or self.alone) and is_whiteout(status)):
                raise self._in_the_way(path) from None
            os.unlink(name, dir_fd=parent.fd)
            hidden = True
        else:
            lower = -1
            if parent.lower >= 0 and path not in self.opaque:
                lower = _open_lower(parent.lower, name)
            return Directory(fd, lower, path, self._seen(fd, path))
        return self._make(parent, name, path, hidden)

    def _make(self, parent: Directory, name: bytes, path: bytes, hidden: bool) -> Directory | bytes:
        lower = -1
        if hidden and (parent.lower >= 0 or self.alone):
            self.opaque.add(path)
        elif parent.lower >= 0:
            lower = _open_lower(parent.lower, name)
            if lower < 0 and (status := lower_status(parent, name)):
                if stat.S_ISLNK(status.st_mode):
                    self.followed.add(path)
                    return os.readlink(name, dir_fd=parent.lower)
                raise self._in_the_way(path)
        os.mkdir(name, 0o755, dir_fd=parent.fd)
        fd = os.open(name, OPEN_DIRECTORY, dir_fd=parent.fd)
        if lower >= 0:
            self._copy_attributes(lower, fd, path)
        else:
            if not parent.plain:
                os.fchown(fd, 0, 0)
                os.fchmod(fd, 0o755)
            if self.alone and not self._is_hidden(path):
                self.implied.add(path)
            # No layer says when it was made; the same layer must give the same tree.
            self._times[path] = (os.fstat(fd).st_ino, 0, 0)
        return Directory(fd, lower, path, self._plain(fd, os.fstat(fd)))

    def _is_hidden(self, path: bytes) -> bool:
        """Whether the layer has hidden all that is below at `path`."""
        return bool(self.opaque) and any(
            path[:end] in self.opaque for end, byte in enumerate(path + b"/") if byte == ord("/")
        )

    def _copy_attributes(self, source: int, target: int, path: bytes) -> None:
        status = os.fstat(source)
        os.fchown(target, status.st_uid, status.st_gid)
        os.fchmod(target, status.st_mode & 0o7777)
        copy_xattrs(source, target)
        self._times[path] = (os.fstat(target).st_ino, status.st_atime_ns, status.st_mtime_ns)

    def _seen(self, fd: int, path: bytes) -> bool:
        """Note the times of a directory that was there before, so that they stay; whether it is plain."""
        status = os.fstat(fd)
        if path not in self._times:
            self._times[path] = (status.st_ino, status.st_atime_ns, status.st_mtime_ns)
        return self._plain(fd, status)

    @staticmethod
    def _plain(fd: int, status: os.stat_result) -> bool:
        if status.st_mode & stat.S_ISGID:
            return False
        try:
            os.getxattr(fd, _DEFAULT_ACL)
        except OSError as error:
            if error.errno in _NO_XATTR:
                return True
            raise
        return False

    @staticmethod
    def _in_the_way(path: bytes) -> InTheWay:
        return InTheWay(f"The layer writes below {printable(path)}, which is no directory")


def join(directory: bytes, name: bytes) -> bytes:
    """The path of `name` in the directory at `directory`."""
    return directory + b"/" + name if directory else name


def lower_status(parent: Directory, name: bytes) -> os.stat_result | None:
    """What `name` is in the lower tree below `parent`; None where it is not there."""
    if parent.lower < 0:
        return None
    try:
        status = os.stat(name, dir_fd=parent.lower, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return None if is_whiteout(status) else status


def copy_xattrs(source: int, target: int) -> None:
    """Copy extended attributes but for the host's security labels and `trusted.` ones, which speak to overlayfs."""
    for name in os.listxattr(source):
        if not name.startswith(("security.", "trusted.")) or name == "security.capability":
            os.setxattr(target, name, os.getxattr(source, name))


def is_whiteout(status: os.stat_result) -> bool:
    """Whether a file is overlayfs's whiteout, the character device 0:0."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _open_lower(directory: int, name: bytes) -> int:
    try:
        return os.open(name, OPEN_DIRECTORY, dir_fd=directory)
    except (FileNotFoundError, NotADirectoryError):
        return -1
