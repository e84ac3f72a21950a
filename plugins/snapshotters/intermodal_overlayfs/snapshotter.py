"""Snapshots as layers of the kernel's overlayfs: each keeps its own changes only.

    ROOT/snapshots/ID/fs       the layer: files, whiteouts (character device 0:0), opaque directories (xattr)
    ROOT/snapshots/ID/work     overlayfs's scratch space, active snapshots only

Public source followed: the kernel's Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from intermodal_core.contracts.common import Mount, Usage
from intermodal_core.contracts.snapshotters import Kind
from intermodal_core.errors import InvalidArgument
from intermodal_core.syscalls import CLONE_FS, CLONE_NEWNS, MS_PRIVATE, MS_REC, mount, unshare
from intermodal_snapshots.directory import DirectorySnapshotter
from intermodal_snapshots.idmapped import host_id, parse_mapping
from intermodal_snapshots.mounts import mount_all
from intermodal_snapshots.trees import copy_attributes, disk_usage

__all__ = ["OverlaySnapshotter", "probe"]

Labels = Mapping[str, str]

_PARAMETERS: Final = Path("/sys/module/overlay/parameters")
_MAPPINGS: Final = ("containerd.io/snapshot/uidmapping", "containerd.io/snapshot/gidmapping")
_SEPARATORS: Final = frozenset(",:\\")


class OverlaySnapshotter(DirectorySnapshotter):
    """Overlayfs below `root`; `options` are added to each overlay mount.

    Raises InvalidArgument for a root whose path overlayfs's options cannot hold, and what `DirectorySnapshotter` raises.
    """

    rebase = True

    def __init__(
        self, root: Path, *, options: tuple[str, ...] = (), sync: bool = True, sync_remove: bool = False
    ) -> None:
        if _SEPARATORS & set(str(root)):
            raise InvalidArgument(f"The path {root} must hold no comma, colon or backslash: overlayfs splits at them")
        self.options = (*_kernel_options(), *options)
        super().__init__(root, sync=sync, sync_remove=sync_remove)

    def prepare(self, key: str, parent: str = "", labels: Labels | None = None) -> list[Mount]:
        """[S5]; with labels that map ids, mounts whose lower layers' owners are mapped."""
        mapping = _mapping(labels)
        return self._mapped(super().prepare(key, parent, labels), mapping)

    def view(self, key: str, parent: str = "", labels: Labels | None = None) -> list[Mount]:
        """[S6]; as `prepare`."""
        mapping = _mapping(labels)
        return self._mapped(super().view(key, parent, labels), mapping)

    def mounts(self, key: str) -> list[Mount]:
        """[S7]; as `prepare`."""
        return self._mapped(super().mounts(key), _mapping(self.stat(key).labels))

    def _mapped(self, mounts: list[Mount], mapping: tuple[str, str] | None) -> list[Mount]:
        if mapping is None:
            return mounts
        (mount,) = mounts
        upper = next((word[9:] for word in mount.options if word.startswith("upperdir=")), "")
        if upper:
            # The upper layer is not mapped: the kernel writes the host's ids into it.
            status = os.stat(upper)
            uids, gids = map(parse_mapping, mapping)
            if not any(first <= status.st_uid < first + size for _, first, size in uids):
                os.chown(upper, host_id(uids, status.st_uid), host_id(gids, status.st_gid))
        options = (*mount.options, f"uidmap={mapping[0]}", f"gidmap={mapping[1]}")
        return [Mount(mount.type, mount.source, options)]

    def make(self, directory: Path, kind: Kind, parents: list[Path]) -> None:
        """A layer of its own, unless it is a view of parents, which needs none."""
        if kind == "view" and parents:
            return
        layer = directory / "fs"
        layer.mkdir(mode=0o755)
        # In an overlay the root's attributes are those of the topmost layer.
        layer.chmod(0o755)
        if parents:
            (directory / "work").mkdir(mode=0o700)
            _copy_root(parents[0] / "fs", layer)

    def mounts_of(self, directory: Path, kind: Kind, parents: list[Path]) -> list[Mount]:
        """One mount: a bind of the only layer there is, else an overlay."""
        access = "ro" if kind == "view" else "rw"
        if not parents:
            return [Mount("bind", str(directory / "fs"), (access, "rbind"))]
        if kind == "view" and len(parents) == 1:
            return [Mount("bind", str(parents[0] / "fs"), ("ro", "rbind"))]
        options = list(self.options)
        if kind == "active":
            options += [f"workdir={directory / 'work'}", f"upperdir={directory / 'fs'}"]
        options.append("lowerdir=" + ":".join(str(parent / "fs") for parent in parents))
        return [Mount("overlay", "overlay", tuple(options))]

    def usage_of(self, directory: Path) -> Usage:
        """Of the layer; a view of parents has none."""
        try:
            return disk_usage(directory / "fs")
        except FileNotFoundError:
            return Usage(0, 0)


def _mapping(labels: Labels | None) -> tuple[str, str] | None:
    """The mappings of user and group ids that the labels ask for. Raises InvalidArgument."""
    found = tuple((labels or {}).get(name, "") for name in _MAPPINGS)
    if not any(found):
        return None
    for text in found:
        parse_mapping(text)
    return found[0], found[1]


def _kernel_options() -> tuple[str, ...]:
    """What each mount needs on this kernel, in this user namespace."""
    options = []
    if (_PARAMETERS / "index").exists():
        # An index ties lower layers to one upper; ours are shared by many.
        options.append("index=off")
    with open("/proc/self/uid_map") as file:
        if file.read().split() != ["0", "0", "4294967295"]:
            options.append("userxattr")
    return tuple(options)


def _copy_root(source: Path, target: Path) -> None:
    source_fd = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        target_fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            copy_attributes(source_fd, target_fd, overlay=False)
        finally:
            os.close(target_fd)
    finally:
        os.close(source_fd)


def probe(root: Path) -> str:
    """Try overlayfs on the filesystem of `root`: "" when it works, else what went wrong.

    Mounts in a mount namespace of a thread's own, which ends with it: nothing is seen outside, or left behind.
    """
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    outcome: list[str] = ["the probe did not run"]
    with tempfile.TemporaryDirectory(prefix="probe-", dir=root) as place:
        thread = threading.Thread(target=_probe, args=(Path(place), outcome), name="overlay-probe", daemon=True)
        thread.start()
        thread.join()
        shutil.rmtree(Path(place) / "work", ignore_errors=True)
    return outcome[0]


def _probe(place: Path, outcome: list[str]) -> None:
    try:
        for name in ("lower", "upper", "work", "merged"):
            (place / name).mkdir()
        (place / "lower/hidden").touch()
        unshare(CLONE_FS | CLONE_NEWNS)
        mount("none", "/", "", MS_REC | MS_PRIVATE)
        layers = (f"workdir={place / 'work'}", f"upperdir={place / 'upper'}", f"lowerdir={place / 'lower'}")
        mount_all([Mount("overlay", "overlay", (*_kernel_options(), *layers))], place / "merged")
        # Shows whether whiteouts can be made, and are recognised in listings (needs d_type).
        (place / "merged/hidden").unlink()
        left = os.listdir(place / "merged")
        outcome[0] = f"a deleted file still shows as {left[0]!r}" if left else ""
    except OSError as error:
        outcome[0] = f"{error.strerror} ({error.filename or 'unshare'})"
    except Exception as error:
        outcome[0] = str(error)
