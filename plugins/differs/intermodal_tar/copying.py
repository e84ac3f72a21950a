"""Small steps on files below an open directory: remove, copy up, set extended attributes."""

from __future__ import annotations

import errno
import os
import stat

from intermodal_core.errors import InvalidArgument, Unimplemented

from intermodal_tar.tarstream import printable
from intermodal_tar.tree import OPEN_DIRECTORY, Directory, copy_xattrs

__all__ = ["copy_up", "remove", "set_xattrs"]

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PIECE = 1 << 30


def remove(directory: int, name: bytes) -> bool:
    """Remove `name` and all below it; whether it was a directory. One descriptor at a time, whatever the depth."""
    try:
        os.unlink(name, dir_fd=directory)
        return False
    except IsADirectoryError:
        pass
    fd = os.open(name, OPEN_DIRECTORY, dir_fd=directory)
    names: list[bytes | str] = [name]
    try:
        while names:
            below = _unlink_files(fd)
            if below is None:
                # The caller's own descriptor for the last one, which needs no way back by `..`.
                parent = os.open("..", OPEN_DIRECTORY, dir_fd=fd) if len(names) > 1 else os.dup(directory)
                os.close(fd)
                fd = parent
                os.rmdir(names.pop(), dir_fd=fd)
            else:
                child = os.open(below, OPEN_DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = child
                names.append(below)
    finally:
        os.close(fd)
    return True


def _unlink_files(fd: int) -> str | None:
    """Unlink the directory's files up to its first directory, which is returned."""
    with os.scandir(fd) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                return entry.name
            os.unlink(entry.name, dir_fd=fd)
    return None


def copy_up(directory: Directory, name: bytes, status: os.stat_result) -> None:
    """Copy the file `name`, which is only in the lower tree and has `status` there, into the directory as overlayfs does."""
    kind = stat.S_IFMT(status.st_mode)
    fd = directory.fd
    if kind == stat.S_IFREG:
        _copy_file(directory, name, status)
        return
    if kind == stat.S_IFLNK:
        os.symlink(os.readlink(name, dir_fd=directory.lower), name, dir_fd=fd)
        os.chown(name, status.st_uid, status.st_gid, dir_fd=fd, follow_symlinks=False)
    else:
        os.mknod(name, status.st_mode, status.st_rdev, dir_fd=fd)
        os.chown(name, status.st_uid, status.st_gid, dir_fd=fd, follow_symlinks=False)
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=fd)
    os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=fd, follow_symlinks=False)


def _copy_file(directory: Directory, name: bytes, status: os.stat_result) -> None:
    source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory.lower)
    try:
        target = os.open(name, _CREATE, 0o600, dir_fd=directory.fd)
        try:
            at = 0
            while at < status.st_size:
                try:
                    at = os.lseek(source, at, os.SEEK_DATA)
                except OSError as error:
                    if error.errno == errno.ENXIO:  # a hole up to the end
                        break
                    raise
                end = os.lseek(source, at, os.SEEK_HOLE)
                os.lseek(target, at, os.SEEK_SET)
                while at < end and (done := os.sendfile(target, source, at, min(end - at, _PIECE))):
                    at += done
            os.ftruncate(target, status.st_size)
            os.fchown(target, status.st_uid, status.st_gid)
            os.fchmod(target, stat.S_IMODE(status.st_mode))
            copy_xattrs(source, target)
            os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
        finally:
            os.close(target)
    finally:
        os.close(source)


def set_xattrs(target: int | bytes, xattrs: dict[bytes, bytes]) -> None:
    """Give an open file, or a link or node of the working directory, a layer's extended attributes.

    Raises InvalidArgument for those that would speak to overlayfs. `user.` attributes that the filesystem or the kind
    of file cannot have are dropped, as every peer drops them; a capability or an ACL that cannot be kept raises
    Unimplemented.
    """
    for name, value in xattrs.items():
        if name.startswith((b"trusted.", b"user.overlay.")):
            raise InvalidArgument(f"The layer sets the extended attribute {printable(name)}, which no layer may")
        if name.startswith(b"security.") and name != b"security.capability":
            continue
        try:
            if isinstance(target, int):
                os.setxattr(target, name, value)
            else:
                os.setxattr(target, name, value, follow_symlinks=False)
        except OSError as error:
            if name.startswith(b"user.") and error.errno in (errno.EOPNOTSUPP, errno.EPERM):
                continue
            if error.errno == errno.EOPNOTSUPP:
                raise Unimplemented(
                    f"The layer sets the extended attribute {printable(name)}, which this filesystem cannot keep"
                ) from None
            raise
