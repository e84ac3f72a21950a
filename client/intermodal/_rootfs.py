"""Reading a container's root file system before it runs, to look its users up."""

import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from intermodal_core.contracts.common import Mount
from intermodal_core.errors import IntermodalError
from intermodal_core.syscalls import (
    CLONE_NEWNS,
    MNT_DETACH,
    MS_PRIVATE,
    MS_REC,
    UMOUNT_NOFOLLOW,
    mount,
    umount,
    unshare,
)
from intermodal_snapshots.mounts import mount_all

T = TypeVar("T")


def with_rootfs(mounts: Sequence[Mount], read: Callable[[str | None], T]) -> T:
    """The result of `read(path)`, with `mounts` read-only at `path`; `path` is None where this process may not mount.

    The mount is made in a mount namespace that one thread has for itself and that ends with it: nothing else sees
    it, and nothing of it can stay behind. Raises what `read` raises.
    """
    if os.geteuid() != 0:
        return read(None)
    outcome: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(_read_mounted(mounts, read))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="intermodal-rootfs")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def _read_mounted(mounts: Sequence[Mount], read: Callable[[str | None], T]) -> T:
    path = tempfile.mkdtemp(prefix="intermodal-root-")
    try:
        try:
            unshare(CLONE_NEWNS)
            mount("", "/", "", MS_REC | MS_PRIVATE)
            mount_all([_readonly(each) for each in mounts], path)
        except (OSError, IntermodalError):
            return read(None)  # no CAP_SYS_ADMIN, or a file system of another kernel: numbers only
        try:
            return read(path)
        finally:
            umount(path, MNT_DETACH | UMOUNT_NOFOLLOW)
    finally:
        os.rmdir(path)  # never a removal of what is in it: that would be the container's


def _readonly(each: Mount) -> Mount:
    """The same mount for reading: an overlay's upper directory becomes its topmost lower one."""
    options = [option for option in each.options if option != "rw" and not option.startswith("workdir=")]
    upper = next((option[9:] for option in options if option.startswith("upperdir=")), None)
    if upper is not None:
        options = [
            f"lowerdir={upper}:{option[9:]}" if option.startswith("lowerdir=") else option
            for option in options
            if not option.startswith("upperdir=")
        ]
    return Mount(each.type, each.source, (*options, "ro"), each.target)
