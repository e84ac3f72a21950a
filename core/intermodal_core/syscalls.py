"""System calls that Python 3.11 does not offer, by ctypes with the thread's own errno.

Each raises OSError with errno and the path it was given, as the functions of `os` do. Those that change what outlives
the call (mount, umount, unshare, setns, pivot_root) raise the audit event `intermodal.step` with their name before it, and
only before: a crash test ends the process at the k-th one.
"""

from __future__ import annotations

import ctypes
import os
import sys

TYPE_CHECKING = False  # typing itself is 5 ms and a megabyte that every shim would share
if TYPE_CHECKING:
    from typing import Final

__all__ = [
    "CLONE_FS",
    "CLONE_NEWCGROUP",
    "CLONE_NEWIPC",
    "CLONE_NEWNET",
    "CLONE_NEWNS",
    "CLONE_NEWPID",
    "CLONE_NEWUSER",
    "CLONE_NEWUTS",
    "IN_CREATE",
    "IN_MODIFY",
    "IN_MOVED_TO",
    "MNT_DETACH",
    "MS_BIND",
    "MS_DIRSYNC",
    "MS_MANDLOCK",
    "MS_NOATIME",
    "MS_NODEV",
    "MS_NODIRATIME",
    "MS_NOEXEC",
    "MS_NOSUID",
    "MS_PRIVATE",
    "MS_RDONLY",
    "MS_REC",
    "MS_RELATIME",
    "MS_REMOUNT",
    "MS_SHARED",
    "MS_SILENT",
    "MS_SLAVE",
    "MS_STRICTATIME",
    "MS_SYNCHRONOUS",
    "MS_UNBINDABLE",
    "PR_CAPBSET_DROP",
    "PR_SET_CHILD_SUBREAPER",
    "PR_SET_NO_NEW_PRIVS",
    "PR_SET_PDEATHSIG",
    "RESOLVE_BENEATH",
    "RESOLVE_IN_ROOT",
    "RESOLVE_NO_MAGICLINKS",
    "RESOLVE_NO_SYMLINKS",
    "RESOLVE_NO_XDEV",
    "UMOUNT_NOFOLLOW",
    "attach_mount",
    "capset",
    "inotify",
    "map_mount",
    "mount",
    "open_tree",
    "openat2",
    "pivot_root",
    "prctl",
    "setns",
    "syncfs",
    "umount",
    "unshare",
]

RESOLVE_NO_XDEV: Final = 0x01
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08
RESOLVE_IN_ROOT: Final = 0x10

CLONE_FS: Final = 0x00000200
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

MS_RDONLY: Final = 0x01
MS_NOSUID: Final = 0x02
MS_NODEV: Final = 0x04
MS_NOEXEC: Final = 0x08
MS_SYNCHRONOUS: Final = 0x10
MS_REMOUNT: Final = 0x20
MS_MANDLOCK: Final = 0x40
MS_DIRSYNC: Final = 0x80
MS_NOATIME: Final = 0x400
MS_NODIRATIME: Final = 0x800
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_SILENT: Final = 0x8000
MS_UNBINDABLE: Final = 1 << 17
MS_PRIVATE: Final = 1 << 18
MS_SLAVE: Final = 1 << 19
MS_SHARED: Final = 1 << 20
MS_RELATIME: Final = 1 << 21
MS_STRICTATIME: Final = 1 << 24
MNT_DETACH: Final = 2
UMOUNT_NOFOLLOW: Final = 8

IN_MODIFY: Final = 0x002
IN_MOVED_TO: Final = 0x080
IN_CREATE: Final = 0x100

PR_SET_PDEATHSIG: Final = 1
PR_CAPBSET_DROP: Final = 24
PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_NO_NEW_PRIVS: Final = 38

_AT_FDCWD: Final = ctypes.c_int(-100)
_AT_EMPTY_PATH: Final = ctypes.c_uint(0x1000)
_OPEN_TREE_CLONE: Final = 1
_MOVE_MOUNT_F_EMPTY_PATH: Final = 4
_MOUNT_ATTR_IDMAP: Final = 0x100000

# The newer ones have the same number on every architecture.
_SYS_OPEN_TREE: Final = 428
_SYS_MOVE_MOUNT: Final = 429
_SYS_OPENAT2: Final = 437
_SYS_MOUNT_SETATTR: Final = 442
_SYS_PIVOT_ROOT: Final = {"x86_64": 155, "aarch64": 41, "riscv64": 41, "ppc64le": 203, "s390x": 217, "armv7l": 218}

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def openat2(dirfd: int, path: str | bytes, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """Open `path` from the directory `dirfd` as Linux's openat2 does, held to what `resolve` allows.

    `resolve` is an or of RESOLVE_... bits; O_CLOEXEC is always added; `mode` counts only with O_CREAT or O_TMPFILE.
    Raises OSError: EXDEV or ELOOP where the path would leave what `resolve` allows, EAGAIN where a rename raced a `..`
    (try again), ENOSYS before Linux 5.6.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    size = ctypes.c_size_t(ctypes.sizeof(how))
    fd = int(_libc.syscall(_SYS_OPENAT2, ctypes.c_int(dirfd), os.fsencode(path), ctypes.byref(how), size))
    if fd < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), path)
    return fd


def mount(source: str | bytes, target: str | bytes, type: str, flags: int = 0, data: str | bytes = "") -> None:
    """The system call: `flags` is an or of MS_...; `data` are the filesystem's own options, at most a page of them."""
    sys.audit("intermodal.step", "mount")
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        type.encode() or None,
        ctypes.c_ulong(flags),
        os.fsencode(data) or None,
    )
    _check(result, target)


def umount(target: str | bytes, flags: int = 0) -> None:
    """The system call: `flags` is an or of MNT_DETACH and UMOUNT_NOFOLLOW."""
    sys.audit("intermodal.step", "umount")
    _check(_libc.umount2(os.fsencode(target), ctypes.c_int(flags)), target)


def open_tree(path: str | bytes) -> int:
    """The system call: a detached copy of the mount at `path`, which is then its root, as a descriptor. Gone when that is closed.

    Raises OSError: ENOSYS before Linux 5.2.
    """
    flags = os.O_CLOEXEC | _OPEN_TREE_CLONE
    return _check(_libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(path), ctypes.c_uint(flags)), path)


def map_mount(mount: int, namespace: int) -> None:
    """mount_setattr(2): what is in the detached `mount` is seen with owners as the user namespace maps them.

    Raises OSError: ENOSYS before Linux 5.12, EINVAL for a filesystem that cannot.
    """
    attributes = (ctypes.c_uint64 * 4)(_MOUNT_ATTR_IDMAP, 0, 0, namespace)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    _check(_libc.syscall(_SYS_MOUNT_SETATTR, ctypes.c_int(mount), b"", _AT_EMPTY_PATH, attributes, size))


def attach_mount(mount: int, target: str | bytes) -> None:
    """move_mount(2): mount the detached `mount` on `target`."""
    sys.audit("intermodal.step", "mount")
    flags = ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH)
    _check(_libc.syscall(_SYS_MOVE_MOUNT, ctypes.c_int(mount), b"", _AT_FDCWD, os.fsencode(target), flags), target)


def unshare(flags: int) -> None:
    """The system call: give the calling thread what the CLONE_... bits name as its own."""
    sys.audit("intermodal.step", "unshare")
    _check(_libc.unshare(ctypes.c_int(flags)))


def setns(fd: int, flags: int = 0) -> None:
    """The system call: move the calling thread into the namespace, or into a pidfd's that the CLONE_... bits name."""
    sys.audit("intermodal.step", "setns")
    _check(_libc.setns(ctypes.c_int(fd), ctypes.c_int(flags)))


def pivot_root(new_root: str | bytes, put_old: str | bytes) -> None:
    """The system call: make the mount point `new_root` the root, and move the old root to `put_old`; both may be `.`."""
    sys.audit("intermodal.step", "pivot_root")
    _check(_libc.syscall(_SYS_PIVOT_ROOT[os.uname().machine], os.fsencode(new_root), os.fsencode(put_old)), new_root)


def prctl(option: int, argument: int = 0) -> int:
    """The system call with one argument; returns what it returns."""
    zero = ctypes.c_ulong(0)
    return _check(_libc.prctl(ctypes.c_int(option), ctypes.c_ulong(argument), zero, zero, zero))


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """The system call for the calling thread: three sets, bit n for the capability of number n."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
    sets = (effective, permitted, inheritable)
    data = (ctypes.c_uint32 * 6)(*(part & 0xFFFFFFFF for part in sets), *(part >> 32 for part in sets))
    _check(_libc.capset(header, data))


def syncfs(fd: int) -> None:
    """The system call: write the filesystem that holds `fd` to its disk."""
    _check(_libc.syncfs(ctypes.c_int(fd)))


def inotify(path: str | bytes, mask: int) -> int:
    """A new inotify descriptor (close-on-exec, not blocking) that watches `path`; `mask` is an or of IN_...

    Raises OSError: ENOENT, EMFILE past `fs.inotify.max_user_instances`, ENOSPC past `max_user_watches`.
    """
    fd = _check(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK), path)
    try:
        _check(_libc.inotify_add_watch(ctypes.c_int(fd), os.fsencode(path), ctypes.c_uint32(mask)), path)
    except OSError:
        os.close(fd)
        raise
    return fd


def _check(result: int, path: str | bytes | None = None) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), *([path] if path is not None else []))
    return int(result)
