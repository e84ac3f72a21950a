"""System calls that Python 3.11 does not offer, by ctypes with the thread's own errno.

Each raises OSError with errno and the path it was given, as the functions of `os` do.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

__all__ = [
    "RESOLVE_BENEATH",
    "RESOLVE_IN_ROOT",
    "RESOLVE_NO_MAGICLINKS",
    "RESOLVE_NO_SYMLINKS",
    "RESOLVE_NO_XDEV",
    "openat2",
]

RESOLVE_NO_XDEV: Final = 0x01
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08
RESOLVE_IN_ROOT: Final = 0x10

_SYS_OPENAT2: Final = 437  # the same on every architecture

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def openat2(dirfd: int, path: str | bytes, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """Open `path` from the directory `dirfd` as Linux's openat2 does, held to what `resolve` allows.

    `resolve` is an or of RESOLVE_... bits; O_CLOEXEC is always added; `mode` counts only with O_CREAT or O_TMPFILE. Raises OSError: EXDEV or ELOOP
    where the path would leave what `resolve` allows, EAGAIN where a rename raced a `..` (try again), ENOSYS
    before Linux 5.6.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    size = ctypes.c_size_t(ctypes.sizeof(how))
    fd = int(_libc.syscall(_SYS_OPENAT2, ctypes.c_int(dirfd), os.fsencode(path), ctypes.byref(how), size))
    if fd < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), path)
    return fd
