"""Shuts a process in with nothing but a layer's directory, before it reads the first byte of what a stranger wrote.

New mount and network namespaces; the mounts made there, unseen by anybody else; pivot_root into the directory; no more
imports; the few capabilities that unpacking takes. A fault in a decompressor is then a fault in a process that sees
the files it is unpacking and those below them, read-only, and that can neither connect nor mount.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Sequence
from typing import Final, NamedTuple, NoReturn

from intermodal_core import syscalls as sc
from intermodal_core.contracts.common import Mount
from intermodal_core.errors import FailedPrecondition, InvalidArgument, from_os_error
from intermodal_snapshots.mounts import mount_all

__all__ = ["Pair", "Place", "drop_privileges", "enter", "enter_pair", "upper_directory"]

# CHOWN, DAC_OVERRIDE, FOWNER, FSETID, MKNOD, SETFCAP of capability.h.
_KEPT: Final = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 27 | 1 << 31
_LAST_CAPABILITY: Final = 63
_MEMORY: Final = 4 << 30
#: Options of an overlay under which its upper directory may be written without it, as it would be with it.
_UNDERSTOOD: Final = ("index", "redirect_dir", "metacopy", "xino", "nfs_export")


class Place(NamedTuple):
    """Where to unpack: the open root, the open root of the view below it or -1, and whether the root was empty."""

    root: int
    lower: int
    fresh: bool


class Pair(NamedTuple):
    """Two trees to compare: the open root of the lower one or -1, of the upper one, and of the upper's own directory or -1."""

    lower: int
    upper: int
    guide: int


class _Sealed:
    """All of sys.meta_path: what a layer has at the interpreter's paths is not ours."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> NoReturn:
        raise ImportError(f"{name} was not loaded before the worker was sealed, and nothing can be loaded there")


def upper_directory(mounts: Sequence[Mount]) -> tuple[str, tuple[str, ...], tuple[str, ...]] | None:
    """Of one overlay: its upper directory, its lower ones and what options a view of those takes; else None.

    None too where the overlay has options under which writing into the upper directory alone is not the same.
    """
    if len(mounts) != 1 or mounts[0].type != "overlay" or mounts[0].target.strip("/"):
        return None
    words: dict[str, str] = {}
    for option in mounts[0].options:
        name, _, value = option.partition("=")
        words[name] = value
    upper, lowers = words.pop("upperdir", ""), words.pop("lowerdir", "")
    words.pop("workdir", "")
    words.pop("volatile", "")
    words.pop("rw", "")
    # A backslash quotes, and an empty element marks layers of data only: left to the kernel.
    if not upper or not lowers or "\\" in lowers or "::" in lowers or not words.keys() <= set(_UNDERSTOOD):
        return None
    kept = tuple(f"{name}={words[name]}" for name in ("redirect_dir", "metacopy", "xino") if name in words)
    return upper, tuple(lowers.split(":")), kept


def enter(mounts: Sequence[Mount], scratch: str) -> Place:
    """Make `mounts` in namespaces of this process's own and make them its root. Needs a single thread and root's rights.

    `scratch` is an empty directory to mount on, which may be shared: nobody else sees these mounts. Raises what the
    failed step means.
    """
    _isolate()
    overlay = upper_directory(mounts)
    if overlay is not None and _is_empty(overlay[0]):
        upper, lowers, options = overlay
        if len(lowers) == 1:
            view = Mount("bind", lowers[0], ("rbind", "ro"))
        else:
            view = Mount("overlay", "overlay", (*options, "lowerdir=" + ":".join(lowers)))
        mount_all((view,), scratch)
        lower = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        sc.umount(scratch, sc.MNT_DETACH)
        return Place(_pivot((Mount("bind", upper, ("rbind", "rw")),), scratch), lower, True)
    root = _pivot(mounts, scratch)
    return Place(root, -1, not os.listdir(root))


def enter_pair(lower: Sequence[Mount], upper: Sequence[Mount], scratch: str) -> Pair:
    """Mount both read-only where nobody else sees it, and keep nothing of the machine but these trees.

    An overlay's upper directory is mounted as the topmost of the lower ones: another mount may be writing to it.
    """
    _isolate()
    below = _seen(lower, scratch) if lower else -1
    overlay = upper_directory(upper)
    guide = -1
    if overlay is None:
        above = _seen(upper, scratch)
    else:
        directory, lowers, options = overlay
        layers = "lowerdir=" + ":".join((directory, *lowers))
        above = _seen((Mount("overlay", "overlay", (*options, layers)),), scratch)
        guide = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if lower else -1
    os.close(_pivot((Mount("tmpfs", "tmpfs", ("size=64k",)),), scratch))
    return Pair(below, above, guide)


def _seen(mounts: Sequence[Mount], scratch: str) -> int:
    """The open root of mounts that have no name any more."""
    mount_all(mounts, scratch)
    fd = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for _ in mounts:
        sc.umount(scratch, sc.MNT_DETACH)
    return fd


def _isolate() -> None:
    try:
        sc.unshare(sc.CLONE_NEWNS | sc.CLONE_NEWNET | sc.CLONE_NEWIPC)
        sc.mount("none", "/", "", sc.MS_REC | sc.MS_PRIVATE)
    except OSError as error:
        raise from_os_error(error, "isolate the worker (it needs CAP_SYS_ADMIN)") from error


def drop_privileges(keep: Sequence[int]) -> None:
    """Keep the descriptors `keep` and six capabilities, and import nothing any more."""
    os.umask(0)
    low = 3
    for fd in sorted(keep):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX"))
    for fd in (1, 2):
        os.dup2(0, fd)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    for number in range(_LAST_CAPABILITY + 1):
        if not _KEPT >> number & 1:
            try:
                sc.prctl(sc.PR_CAPBSET_DROP, number)
            except OSError:
                break  # past the kernel's last one
    sc.capset(_KEPT, _KEPT, 0)
    sc.prctl(sc.PR_SET_NO_NEW_PRIVS, 1)
    # The spawner ends with the daemon, and with the daemon whoever waits for this layer.
    sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL)
    sys.meta_path[:] = [_Sealed]
    sys.path.clear()
    sys.path_importer_cache.clear()


def _is_empty(directory: str) -> bool:
    try:
        with os.scandir(directory) as entries:
            return next(entries, None) is None
    except OSError as error:
        raise from_os_error(error, "open the overlay's upper directory") from error


def _pivot(mounts: Sequence[Mount], scratch: str) -> int:
    if not mounts:
        raise InvalidArgument("There are no mounts to apply the layer onto")
    mount_all(mounts, scratch)
    try:
        os.chdir(scratch)
        sc.pivot_root(".", ".")
        # The old root lies on top of the new one now.
        sc.umount(".", sc.MNT_DETACH)
        os.chdir("/")
        root = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise from_os_error(error, "make the layer's directory the apply worker's root") from error
    if os.fstatvfs(root).f_flag & os.ST_RDONLY:
        raise FailedPrecondition("The mounts to apply the layer onto are read-only; prepare a snapshot, not a view")
    return root
