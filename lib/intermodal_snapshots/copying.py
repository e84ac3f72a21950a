"""Copying a directory tree whole: contents by the cheapest way the filesystem has, and everything that stat shows."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from intermodal_snapshots.trees import Descent, copy_attributes, remove_tree

__all__ = ["can_reflink", "copy_tree"]

_FICLONE: Final = 0x40049409
_NO_REFLINK: Final = frozenset(
    {errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.ETXTBSY}
)
_CHUNK: Final = 1 << 30


def copy_tree(source: Path, target: Path) -> None:
    """Copy the directory `source` to `target`, which must not exist.

    Kept: contents (holes stay holes), owner, mode, times in ns, xattrs with capabilities and ACLs, symbolic links, hard
    links among the files, devices, FIFOs and sockets. Shared with the source where the filesystem has reflinks. The tree
    must not change meanwhile. On an error a part of the copy may be there. Raises OSError.
    """
    target.mkdir(mode=0o700)
    # Hard-linked files are found again here, by inode: a path to the first copy may be longer than the kernel takes.
    hub = target.with_name(target.name + ".links")
    hub.mkdir(mode=0o700)
    copier = _Copier(source, target, hub)
    try:
        copier.run()
    finally:
        copier.close()
        remove_tree(hub)


def can_reflink(directory: Path) -> bool:
    """Whether the filesystem of `directory` shares blocks between files (FICLONE), found by trying."""
    flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
    try:
        with open(os.open(directory, flags), "r+b") as source, open(os.open(directory, flags), "r+b") as target:
            source.write(b"probe")
            source.flush()
            fcntl.ioctl(target, _FICLONE, source.fileno())
    except OSError:
        return False
    return True


class _Copier:
    def __init__(self, source: Path, target: Path, hub: Path) -> None:
        self.source = Descent(source)
        self.target = Descent(target)
        self.hub = os.open(hub, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.linked: set[int] = set()
        self.reflink = True

    def close(self) -> None:
        self.source.close()
        self.target.close()
        os.close(self.hub)

    def run(self) -> None:
        frames = [self.entries()]
        while True:
            if frames[-1]:
                name = frames[-1].pop()
                os.mkdir(name, 0o700, dir_fd=self.target.fd)
                self.source.down(name)
                self.target.down(name)
                frames.append(self.entries())
            else:
                # Last, as each entry made has changed the directory's times.
                copy_attributes(self.source.fd, self.target.fd)
                frames.pop()
                if not frames:
                    return
                self.source.up()
                self.target.up()

    def entries(self) -> list[str]:
        """Copy what is no directory; the names of the subdirectories."""
        directories = []
        with os.scandir(self.source.fd) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    directories.append(entry.name)
                else:
                    self.entry(entry.name, entry.stat(follow_symlinks=False))
        return directories

    def entry(self, name: str, status: os.stat_result) -> None:
        several = status.st_nlink > 1
        if several and status.st_ino in self.linked:
            os.link(str(status.st_ino), name, src_dir_fd=self.hub, dst_dir_fd=self.target.fd, follow_symlinks=False)
            return
        if stat.S_ISREG(status.st_mode):
            self.file(name, status)
        else:
            if stat.S_ISLNK(status.st_mode):
                os.symlink(os.readlink(name, dir_fd=self.source.fd), name, dir_fd=self.target.fd)
            else:
                os.mknod(name, status.st_mode, status.st_rdev, dir_fd=self.target.fd)
            self.special(name, status)
        if several:
            os.link(name, str(status.st_ino), src_dir_fd=self.target.fd, dst_dir_fd=self.hub, follow_symlinks=False)
            self.linked.add(status.st_ino)

    def special(self, name: str, status: os.stat_result) -> None:
        """Owner, xattrs, mode and times of what must not be opened."""
        here = self.target.fd
        os.chown(name, status.st_uid, status.st_gid, dir_fd=here, follow_symlinks=False)
        # There is no lgetxattrat(2) before Linux 6.13: the descriptors' links in /proc stand for the directories.
        source, target = f"/proc/self/fd/{self.source.fd}/{name}", f"/proc/self/fd/{here}/{name}"
        for attribute in os.listxattr(source, follow_symlinks=False):
            value = os.getxattr(source, attribute, follow_symlinks=False)
            os.setxattr(target, attribute, value, follow_symlinks=False)
        if not stat.S_ISLNK(status.st_mode):
            os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=here)
        os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=here, follow_symlinks=False)

    def file(self, name: str, status: os.stat_result) -> None:
        new = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with _opened(name, os.O_RDONLY, self.source.fd) as source, _opened(name, new, self.target.fd) as target:
            if status.st_size and not (self.reflink and self.clone(source, target)):
                _copy_data(source, target, status)
            copy_attributes(source, target)

    def clone(self, source: int, target: int) -> bool:
        try:
            fcntl.ioctl(target, _FICLONE, source)
        except OSError as error:
            if error.errno not in _NO_REFLINK:
                raise
            self.reflink = False
            return False
        return True


@contextmanager
def _opened(name: str, flags: int, directory: int) -> Iterator[int]:
    fd = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory)
    try:
        yield fd
    finally:
        os.close(fd)


def _copy_data(source: int, target: int, status: os.stat_result) -> None:
    if status.st_blocks * 512 >= status.st_size:
        _copy_range(source, target, 0, status.st_size)
        return
    os.ftruncate(target, status.st_size)
    end = 0
    while end < status.st_size:
        try:
            start = os.lseek(source, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole to the end
                return
            raise
        end = os.lseek(source, start, os.SEEK_HOLE)
        _copy_range(source, target, start, end)


def _copy_range(source: int, target: int, start: int, end: int) -> None:
    while start < end:
        try:
            count = os.copy_file_range(source, target, min(end - start, _CHUNK), start, start)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            count = os.pwrite(target, os.pread(source, min(end - start, 1 << 20), start), start)
        if count == 0:  # the file became shorter
            raise OSError(errno.EIO, "The file changed while it was copied")
        start += count
