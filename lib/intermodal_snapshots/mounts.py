"""Mounts as contracts pass them, made and unmade; options are mount(8)'s words."""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from intermodal_core import syscalls as sc
from intermodal_core.contracts.common import Mount
from intermodal_core.errors import InvalidArgument, from_os_error

from intermodal_snapshots.idmapped import Mapping, mapped_tree, split_mapping

__all__ = ["ParsedOptions", "filesystem_of", "mount_all", "mounts_below", "parse_options", "temp_mount", "unmount_all"]

# The words of mount(8) that are flags of mount(2): what each sets, or clears.
_SET: Final = {
    "ro": sc.MS_RDONLY,
    "nosuid": sc.MS_NOSUID,
    "nodev": sc.MS_NODEV,
    "noexec": sc.MS_NOEXEC,
    "sync": sc.MS_SYNCHRONOUS,
    "remount": sc.MS_REMOUNT,
    "mand": sc.MS_MANDLOCK,
    "dirsync": sc.MS_DIRSYNC,
    "noatime": sc.MS_NOATIME,
    "nodiratime": sc.MS_NODIRATIME,
    "bind": sc.MS_BIND,
    "rbind": sc.MS_BIND | sc.MS_REC,
    "relatime": sc.MS_RELATIME,
    "strictatime": sc.MS_STRICTATIME,
    "silent": sc.MS_SILENT,
}
_CLEAR: Final = {
    "rw": sc.MS_RDONLY,
    "suid": sc.MS_NOSUID,
    "dev": sc.MS_NODEV,
    "exec": sc.MS_NOEXEC,
    "async": sc.MS_SYNCHRONOUS,
    "nomand": sc.MS_MANDLOCK,
    "atime": sc.MS_NOATIME,
    "diratime": sc.MS_NODIRATIME,
    "norelatime": sc.MS_RELATIME,
    "nostrictatime": sc.MS_STRICTATIME,
    "loud": sc.MS_SILENT,
    "defaults": 0,
}
_PROPAGATION: Final = {
    "private": sc.MS_PRIVATE,
    "shared": sc.MS_SHARED,
    "slave": sc.MS_SLAVE,
    "unbindable": sc.MS_UNBINDABLE,
}
# What a bind mount takes only when it is mounted once more.
_PER_MOUNT: Final = (
    sc.MS_RDONLY | sc.MS_NOSUID | sc.MS_NODEV | sc.MS_NOEXEC | sc.MS_NOATIME | sc.MS_NODIRATIME | sc.MS_RELATIME
)


class ParsedOptions(NamedTuple):
    """Options of one mount as mount(2) wants them: flags, the filesystem's own words, propagation changes to make after."""

    flags: int
    data: tuple[str, ...]
    propagation: tuple[int, ...]


def parse_options(options: Sequence[str]) -> ParsedOptions:
    """Split mount(8) options; of words that contradict each other the last one counts. Raises InvalidArgument."""
    flags = 0
    data: list[str] = []
    propagation: list[int] = []
    for word in options:
        if word in _SET:
            flags |= _SET[word]
        elif word in _CLEAR:
            flags &= ~_CLEAR[word]
        elif word in _PROPAGATION:
            propagation.append(_PROPAGATION[word])
        elif word[:1] == "r" and word[1:] in _PROPAGATION:
            propagation.append(_PROPAGATION[word[1:]] | sc.MS_REC)
        elif not word or "\0" in word:
            raise InvalidArgument(f"The mount options {options!r} hold an empty word or a NUL character")
        else:
            data.append(word)
    return ParsedOptions(flags, tuple(data), tuple(propagation))


def mount_all(mounts: Sequence[Mount], target: str | Path) -> None:
    """Mount a list as a snapshotter gives it on the directory `target`, or nothing of it.

    A mount's own `target` is a path below, and never leads out of it, whatever links are there. Raises InvalidArgument
    and what the failed mount(2) means.
    """
    done = 0
    try:
        for mount in mounts:
            with _point(target, mount.target) as point:
                _mount(mount, point)
            done += 1
    except BaseException as error:
        if done:
            unmount_all(target)
        if isinstance(error, OSError):
            what = f"mount {mount.type} {mount.source} on {target}{mount.target}"
            raise from_os_error(error, what) from error
        raise


@contextmanager
def _point(target: str | Path, below: str) -> Iterator[str]:
    if not below.strip("/"):
        yield str(target)
        return
    top = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = sc.openat2(top, below, os.O_PATH, resolve=sc.RESOLVE_IN_ROOT | sc.RESOLVE_NO_MAGICLINKS)
    finally:
        os.close(top)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def _mount(mount: Mount, point: str) -> None:
    options, mapping = split_mapping(mount.options)
    flags, data, propagation = parse_options(options)
    if mount.type == "bind":
        flags |= sc.MS_BIND
    if mapping:
        _mount_mapped(mount, point, flags, data, mapping)
    elif flags & sc.MS_BIND and not flags & sc.MS_REMOUNT:
        sc.mount(mount.source, point, "", flags & (sc.MS_BIND | sc.MS_REC))
        _restrict(point, flags)
    else:
        text = os.fsencode(",".join(data))
        if len(text) < mmap.PAGESIZE:
            sc.mount(mount.source, point, mount.type, flags, text)
        else:
            common = _common_directory(mount, data)
            _mount_from(common, common, mount, point, flags, data)
    for change in propagation:
        sc.mount("none", point, "", change)


def _restrict(point: str, flags: int) -> None:
    """What a bind mount takes only when it is mounted once more."""
    if flags & _PER_MOUNT:
        try:
            sc.mount("none", point, "", sc.MS_BIND | sc.MS_REMOUNT | flags & _PER_MOUNT)
        except BaseException:
            sc.umount(point, sc.MNT_DETACH | sc.UMOUNT_NOFOLLOW)
            raise


def _mount_mapped(mount: Mount, point: str, flags: int, data: Sequence[str], mapping: tuple[Mapping, Mapping]) -> None:
    """A bind of a mapped tree, or an overlay whose lower layers are in one."""
    if flags & sc.MS_BIND:
        with mapped_tree(mount.source, *mapping) as tree:
            sc.attach_mount(tree, point)
            _restrict(point, flags)
        return
    common = _common_directory(mount, data)
    if not common:
        raise InvalidArgument(f"The owners of a mount of {mount.type} cannot be mapped: only of bind and overlay")
    with mapped_tree(common, *mapping) as tree:
        try:
            _mount_from(f"/proc/self/fd/{tree}", common, mount, point, flags, data)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # Before Linux 6.15 overlayfs takes no layers of a detached mount.
            with tempfile.TemporaryDirectory(prefix="mapped-") as place:
                sc.attach_mount(tree, place)
                try:
                    _mount_from(place, common, mount, point, flags, data)
                finally:
                    sc.umount(place, sc.MNT_DETACH | sc.UMOUNT_NOFOLLOW)


def _common_directory(mount: Mount, data: Sequence[str]) -> str:
    """The directory that an overlay's lower layers share; "" where there is none."""
    layers = dict(word.partition("=")[::2] for word in data).get("lowerdir", "").split(":")
    if mount.type != "overlay" or not all(map(os.path.isabs, layers)):
        return ""
    common = os.path.commonpath(layers)
    return os.path.dirname(common) if common in layers else common


def _mount_from(here: str, common: str, mount: Mount, point: str, flags: int, data: Sequence[str]) -> None:
    """Mount with the lower layers told from the directory `common`, which is at `here`.

    mount(2) takes a page of options, and so the paths of many layers are short enough.
    """
    words = dict(word.partition("=")[::2] for word in data)
    layers = words.get("lowerdir", "").split(":")
    words["lowerdir"] = ":".join(os.path.relpath(layer, common) for layer in layers) if common else ""
    text = os.fsencode(",".join(f"{name}={value}" if value else name for name, value in words.items()))
    if not common or len(text) >= mmap.PAGESIZE:
        raise InvalidArgument(
            f"The options of the {mount.type} mount on {point} take {len(text)} bytes, more than the kernel's page of "
            f"{mmap.PAGESIZE}: use fewer layers"
        )
    failed: list[BaseException] = []

    def run() -> None:
        # The working directory is shared by all threads; this one leaves them and takes one of its own.
        try:
            sc.unshare(sc.CLONE_FS)
            os.chdir(here)
            sc.mount(mount.source, point, mount.type, flags, text)
        except BaseException as error:
            failed.append(error)

    # Taken before the directory changes: a relative target means what it means to the caller.
    point = os.path.abspath(point)
    thread = threading.Thread(target=run, name="mount")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def unmount_all(target: str | Path) -> None:
    """Unmount everything at and below `target`, the deepest first; what is busy is detached. Nothing mounted: no error.

    Raises what the failed umount2(2) means.
    """
    for point in mounts_below(target):
        try:
            try:
                sc.umount(point, sc.UMOUNT_NOFOLLOW)
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                sc.umount(point, sc.MNT_DETACH | sc.UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT):  # gone meanwhile
                raise from_os_error(error, f"unmount {point}") from error


@contextmanager
def temp_mount(mounts: Sequence[Mount], parent: str | Path | None = None) -> Iterator[Path]:
    """The mounts at a new directory (below `parent`, else the system's temporary one), unmade at the end."""
    place = Path(tempfile.mkdtemp(prefix="mount-", dir=parent))
    try:
        mount_all(mounts, place)
        try:
            yield place
        finally:
            unmount_all(place)
    finally:
        # Only ever an empty directory: rmdir(2) fails where something is still mounted.
        place.rmdir()


def mounts_below(target: str | Path) -> list[str]:
    """The mount points at or below `target` in this mount namespace, the deepest and latest first."""
    top = os.path.realpath(target)
    return [point for point, _type in _mountinfo() if point == top or point.startswith(top.rstrip("/") + "/")][::-1]


def filesystem_of(path: str | Path) -> str:
    """The type of the filesystem that `path` is on (ext4, tmpfs, overlay), as mountinfo names it."""
    real = os.path.realpath(path)
    best, kind = "", "unknown"
    for point, fstype in _mountinfo():
        if (real == point or real.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best, kind = point, fstype
    return kind


def _mountinfo() -> Iterator[tuple[str, str]]:
    """Mount point and filesystem type of each mount, as proc(5) describes the file."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            before, _, after = line.partition(" - ")
            point = before.split(" ")[4]
            if "\\" in point:
                for escaped, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
                    point = point.replace(escaped, char)
            yield point, after.split(" ", 1)[0]
