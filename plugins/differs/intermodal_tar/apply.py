"""Applies the entries of a layer to a tree.

Three kinds of tree, one result: a fresh one with nothing below, where whiteouts have nothing to hide; the fresh upper
directory of an overlay, where whiteouts are written as overlayfs has them; and any other, from which they remove. A
whiteout hides what layers below have, never an entry of its own layer (OCI image specification, layer.md).

Names are relative to the root, a leading slash counts for nothing, `..` may not climb out. What links point to is
content: they are made as they are told, and followed inside of the root only. A hard link's target may not climb out
either. Hard links share the inode of their target, and so its attributes: those of the link's own header are ignored.
Extended attributes of `trusted.` and `user.overlay.` would speak to overlayfs and are refused; of `security.` only
capabilities are taken, the rest are labels of the host that the image was built on.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from typing import Final

from intermodal_core.contracts.differs import ApplyLimits, Residue
from intermodal_core.errors import IntermodalError, InvalidArgument, PermissionDenied, ResourceExhausted, from_os_error

from intermodal_tar.copying import copy_up, remove, set_xattrs
from intermodal_tar.tarstream import Entry, TarReader, printable
from intermodal_tar.tree import OPEN_DIRECTORY, Directory, InTheWay, NeedsParent, Tree, is_whiteout, join, lower_status
from intermodal_tar.whiteouts import Whiteouts

__all__ = ["apply_layer", "apply_layer_alone"]

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_NAMES: Final = (b"", b".", b"..")
_WHITEOUT: Final = b".wh."
_OPAQUE: Final = b".wh..wh..opq"
_AUFS: Final = b".wh..wh."  # its bookkeeping, in layers of long ago
_SPECIAL_BITS: Final = 0o7000
_NODE_KINDS: Final = {b"3": stat.S_IFCHR, b"4": stat.S_IFBLK, b"6": stat.S_IFIFO}
_INVALID: Final = (errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EOVERFLOW, errno.ERANGE, errno.E2BIG)


class _Skipped(Exception):
    """The entry is bookkeeping, no content."""


def apply_layer(
    blocks: Iterable[bytes],
    root: int,
    lower: int = -1,
    fresh: bool = False,
    limits: ApplyLimits = ApplyLimits(),  # noqa: B008 - frozen
    devices: bool = True,
) -> set[bytes]:
    """Unpack the tar archive in `blocks` into the open directory `root`; the process has umask 0 and root's rights.

    `fresh`: the directory is empty. `lower`, only with `fresh`: the open root of the merged view below, or -1; whiteouts
    are then character devices 0:0, and the paths returned are to be marked opaque. Without `devices` an entry that is
    one raises PermissionDenied. Raises InvalidArgument and ResourceExhausted as the contract has it, and what a failed
    system call means.
    """
    reader = TarReader(blocks)
    tree = Tree(root, lower, None if fresh else set(), limits.depth)
    applier = _Applier(reader, tree, limits, devices, overlay=lower >= 0)
    try:
        applier.run()
    finally:
        tree.forget()
    return tree.opaque


def apply_layer_alone(blocks: Iterable[bytes], root: int, limits: ApplyLimits, devices: bool) -> Residue | None:
    """Unpack into the empty `root` in overlay form, knowing nothing of what will be below; what is left to do then.

    None where the layer cannot be applied so; the blocks are then not read to their end. Raises as `apply_layer`.
    """
    reader = TarReader(blocks)
    tree = Tree(root, -1, None, limits.depth, alone=True)
    applier = _Applier(reader, tree, limits, devices, overlay=True)
    try:
        applier.run()
    except NeedsParent:
        return None
    finally:
        tree.forget()
    return Residue(_texts(tree.implied), _texts(tree.assumed), _texts(applier.whiteouts.made), _texts(tree.opaque))


def _texts(paths: Iterable[bytes]) -> tuple[str, ...]:
    return tuple(path.decode("utf-8", "surrogateescape") for path in sorted(paths))


class _Applier:
    def __init__(self, reader: TarReader, tree: Tree, limits: ApplyLimits, devices: bool, overlay: bool) -> None:
        self._reader = reader
        self._tree = tree
        self._limits = limits
        self._devices = devices
        self._overlay = overlay
        self._root_listed = False
        self.whiteouts = Whiteouts(tree, overlay)
        self._write = {
            b"1": self._hard_link,
            b"2": self._symbolic_link,
            b"3": self._node,
            b"4": self._node,
            b"5": self._make_directory,
            b"6": self._node,
        }

    def run(self) -> None:
        files = size = 0
        limits = self._limits
        tracked = self._overlay or self._tree.written is not None
        open_directories = self._tree.open
        regular = self._regular
        for entry in self._reader:
            files += 1
            size += entry.size
            if files > limits.files or size > limits.bytes:
                raise self._over_limit(entry, files)
            try:
                parent, _, name = entry.name.rpartition(b"/")
                if name in _NO_NAMES or b".." in parent:
                    parent, name = self._clean(entry.name)
                if not name:
                    self._list_root(entry)
                    continue
                if name[:4] == _WHITEOUT:
                    self._whiteout(parent, name)
                    continue
                directory = open_directories.get(parent) or self._parent(parent)
                path = join(directory.path, name) if tracked else b""
                if entry.kind == b"0":
                    regular(entry, directory, name)
                else:
                    self._write[entry.kind](entry, directory, name)
                if tracked:
                    self._track(path)
            except OSError as error:
                raise _translated(error, entry) from error
            except _Skipped:
                pass
        if not self._root_listed:
            self._tree.copy_root()
        self._tree.settle()

    def _clean(self, name: bytes) -> tuple[bytes, bytes]:
        """Parent and last part of a name without `.`, `..` and needless slashes; both empty for the root."""
        parts: list[bytes] = []
        for part in name.split(b"/"):
            if part == b"..":
                if not parts:
                    raise InvalidArgument(f"The layer's entry {printable(name)} climbs out of the root")
                parts.pop()
            elif part not in _NO_NAMES:
                parts.append(part)
        return b"/".join(parts[:-1]), parts[-1] if parts else b""

    def _parent(self, name: bytes, keep: bool = False) -> Directory:
        if b"/.wh." in b"/" + name:
            if b"/.wh..wh." in b"/" + name:
                raise _Skipped
            raise InvalidArgument(f"The layer has an entry below the whiteout {printable(name)}")
        return self._tree.directory(name, keep)

    def _regular(self, entry: Entry, directory: Directory, name: bytes) -> None:
        mode = entry.mode
        try:
            fd = os.open(name, _CREATE, mode, dir_fd=directory.fd)
        except FileExistsError:
            directory = self._clear(directory, name)
            fd = os.open(name, _CREATE, mode, dir_fd=directory.fd)
        try:
            piece = self._reader.piece
            if entry.sparse is not None:
                self._write_sparse(entry, fd)
            else:
                while data := piece():
                    done = os.write(fd, data)
                    while done < len(data):
                        done += os.write(fd, data[done:])
            if entry.uid or entry.gid or not directory.plain:
                os.fchown(fd, entry.uid, entry.gid)
                os.fchmod(fd, mode)
            elif mode & _SPECIAL_BITS:
                os.fchmod(fd, mode)
            if entry.xattrs:
                set_xattrs(fd, entry.xattrs)
            os.utime(fd, ns=(entry.mtime, entry.mtime))
        finally:
            os.close(fd)

    def _write_sparse(self, entry: Entry, fd: int) -> None:
        assert entry.sparse is not None
        data = memoryview(b"")
        for offset, length in entry.sparse:
            end = offset + length
            while offset < end:
                data = data or self._reader.piece()
                done = os.pwrite(fd, data[: end - offset], offset)
                offset += done
                data = data[done:]
        os.ftruncate(fd, entry.size)

    def _make_directory(self, entry: Entry, directory: Directory, name: bytes) -> None:
        path = join(directory.path, name)
        made = True
        try:
            os.mkdir(name, entry.mode & 0o777, dir_fd=directory.fd)
        except FileExistsError:
            if stat.S_ISDIR(os.stat(name, dir_fd=directory.fd, follow_symlinks=False).st_mode):
                made = False
            else:
                directory = self._clear(directory, name)
                os.mkdir(name, entry.mode & 0o777, dir_fd=directory.fd)
                below = lower_status(directory, name)
                if self._tree.alone or (below is not None and stat.S_ISDIR(below.st_mode)):
                    self._tree.opaque.add(path)
        self._tree.list(path)
        if not made or entry.uid or entry.gid or entry.xattrs or entry.mode & _SPECIAL_BITS or not directory.plain:
            fd = os.open(name, OPEN_DIRECTORY, dir_fd=directory.fd)
            try:
                self._set_directory(entry, fd, path)
            finally:
                os.close(fd)
            if path in self._tree.open:
                self._tree.open[path].plain = False
        else:
            inode = os.stat(name, dir_fd=directory.fd, follow_symlinks=False).st_ino
            self._tree.set_times(path, inode, entry.mtime)

    def _list_root(self, entry: Entry) -> None:
        if entry.kind != b"5":
            raise InvalidArgument(f"The layer's entry {printable(entry.name)} would replace the root by no directory")
        self._set_directory(entry, self._tree.root.fd, b"")
        self._tree.root.plain = False
        self._root_listed = True

    def _set_directory(self, entry: Entry, fd: int, path: bytes) -> None:
        os.fchown(fd, entry.uid, entry.gid)
        os.fchmod(fd, entry.mode)
        xattrs = entry.xattrs or {}
        for name in os.listxattr(fd):
            # Of an attribute that the entry does not list, nothing stays; labels are the host's.
            if not name.startswith("security.") and os.fsencode(name) not in xattrs:
                os.removexattr(fd, name)
        set_xattrs(fd, xattrs)
        self._tree.set_times(path, os.fstat(fd).st_ino, entry.mtime)

    def _symbolic_link(self, entry: Entry, directory: Directory, name: bytes) -> None:
        try:
            os.symlink(entry.link, name, dir_fd=directory.fd)
        except FileExistsError:
            directory = self._clear(directory, name)
            os.symlink(entry.link, name, dir_fd=directory.fd)
        if entry.uid or entry.gid or not directory.plain:
            os.chown(name, entry.uid, entry.gid, dir_fd=directory.fd, follow_symlinks=False)
        self._finish_node(entry, directory, name)

    def _node(self, entry: Entry, directory: Directory, name: bytes) -> None:
        device = 0
        if entry.kind != b"6":
            if entry.kind == b"3" and not entry.major and not entry.minor:
                # To overlayfs this is a whiteout, so it is one on every tree.
                self.whiteouts.hide(directory, name)
                raise _Skipped
            if not self._devices:
                raise PermissionDenied(
                    f"The layer's entry {printable(entry.name)} is a device, which the differ's option devices = deny forbids"
                )
            if not (0 <= entry.major < 1 << 32 and 0 <= entry.minor < 1 << 32):
                raise InvalidArgument(f"The layer's entry {printable(entry.name)} is a device without a number")
            device = os.makedev(entry.major, entry.minor)
        mode = _NODE_KINDS[entry.kind] | entry.mode
        try:
            os.mknod(name, mode, device, dir_fd=directory.fd)
        except FileExistsError:
            directory = self._clear(directory, name)
            os.mknod(name, mode, device, dir_fd=directory.fd)
        if entry.uid or entry.gid or not directory.plain or entry.mode & _SPECIAL_BITS:
            os.chown(name, entry.uid, entry.gid, dir_fd=directory.fd, follow_symlinks=False)
            os.chmod(name, entry.mode, dir_fd=directory.fd)
        self._finish_node(entry, directory, name)

    def _finish_node(self, entry: Entry, directory: Directory, name: bytes) -> None:
        if entry.xattrs:
            # There is no lsetxattrat(2) before Linux 6.13, and opening a device may do anything.
            os.fchdir(directory.fd)
            set_xattrs(name, entry.xattrs)
        os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=directory.fd, follow_symlinks=False)

    def _hard_link(self, entry: Entry, directory: Directory, name: bytes) -> None:
        target_parent, target = self._clean(entry.link)
        source = self._parent(target_parent, keep=True)
        status: os.stat_result | None
        try:
            status = os.stat(target or b".", dir_fd=source.fd, follow_symlinks=False)
            if self._overlay and is_whiteout(status):
                status = None
        except FileNotFoundError:
            if self._tree.alone:
                raise NeedsParent from None
            status = lower_status(source, target)
            if status is not None and not stat.S_ISDIR(status.st_mode):
                copy_up(source, target, status)
                self.whiteouts.copied.add(join(source.path, target))
                status = os.stat(target, dir_fd=source.fd, follow_symlinks=False)
        if status is None or stat.S_ISDIR(status.st_mode):
            what = "a directory" if status else "not there"
            raise InvalidArgument(
                f"The layer's hard link {printable(entry.name)} is to {printable(entry.link)}, which is {what}"
            )
        try:
            os.link(target, name, src_dir_fd=source.fd, dst_dir_fd=directory.fd, follow_symlinks=False)
        except FileExistsError:
            present = os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
            if (present.st_dev, present.st_ino) == (status.st_dev, status.st_ino):
                return
            where = source.path
            directory = self._clear(directory, name)
            source = self._tree.directory(where, keep=True)
            os.link(target, name, src_dir_fd=source.fd, dst_dir_fd=directory.fd, follow_symlinks=False)

    def _clear(self, directory: Directory, name: bytes) -> Directory:
        """Remove what an entry replaces; the directory, which may have been opened again."""
        path = join(directory.path, name)
        removed_tree = remove(directory.fd, name)
        if removed_tree:
            self.whiteouts.removed(path)
        if removed_tree or path in self._tree.followed:
            where = directory.path
            self._tree.forget()
            return self._tree.directory(where)
        return directory

    def _track(self, path: bytes) -> None:
        """The layer has written `path`."""
        tree = self._tree
        if tree.written is not None:
            tree.written.add(path)
        self.whiteouts.copied.discard(path)
        if path in tree.followed:
            # A link of below that names went through is hidden now.
            tree.followed.remove(path)
            tree.forget()

    def _whiteout(self, parent: bytes, name: bytes) -> None:
        hidden = name[len(_WHITEOUT) :]
        if hidden in _NO_NAMES:
            raise InvalidArgument(f"The layer has the whiteout {printable(name)}, which names nothing")
        if name.startswith(_AUFS) and name != _OPAQUE:
            return
        try:
            directory = self._parent(parent)
        except InTheWay:
            return  # umoci lists what was below a directory that became a file
        if name == _OPAQUE:
            self.whiteouts.hide_all(directory)
        else:
            self.whiteouts.hide(directory, hidden)

    def _over_limit(self, entry: Entry, files: int) -> ResourceExhausted:
        limits = self._limits
        what = (
            f"more than {limits.files} entries" if files > limits.files else f"more than {limits.bytes} bytes of files"
        )
        return ResourceExhausted(
            f"The layer has {what} with {printable(entry.name)}, the limit of this differ; raise it if that is right"
        )


def _translated(error: OSError, entry: Entry) -> IntermodalError:
    doing = f"unpack {printable(entry.name)}"
    if error.errno in _INVALID:
        return InvalidArgument(f"{doing}: {error.strerror}; the layer is not as a layer must be")
    error.filename = error.filename2 = None  # a part of the name, or a descriptor; the whole name is told already
    return from_os_error(error, doing)
