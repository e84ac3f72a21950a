"""Hides what layers below have, as the kind of tree wants it; never what the layer itself has written."""

from __future__ import annotations

import os
import stat

from intermodal_tar.copying import remove
from intermodal_tar.tree import OPEN_DIRECTORY, Directory, NeedsParent, Tree, is_whiteout, join, lower_status

__all__ = ["Whiteouts"]


class Whiteouts:
    """Of one tree. In an upper directory of an overlay (`overlay`) they are written, from any other tree things go.

    `copied` are the files that were copied up to be linked to: in the upper directory, but not written by the layer.
    """

    def __init__(self, tree: Tree, overlay: bool) -> None:
        self._tree = tree
        self._overlay = overlay
        #: Where whiteouts were written.
        self.made: set[bytes] = set()
        self.copied: set[bytes] = set()

    def removed(self, path: bytes) -> None:
        """The directory at `path` was removed with all that was in it."""
        self.copied = {copied for copied in self.copied if not copied.startswith(path + b"/")}
        written = self._tree.written
        if written is not None:
            written -= {each for each in written if each.startswith(path + b"/")}

    def hide(self, directory: Directory, name: bytes) -> None:
        """Hide what layers below have as `name` in the directory."""
        path = join(directory.path, name)
        written = self._tree.written
        if self._overlay:
            below = lower_status(directory, name)
            if below is None and not self._tree.alone:
                return
            try:
                status = os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
            except FileNotFoundError:
                self._write(directory, name)
                return
            if path in self.copied:
                self.copied.remove(path)
                os.unlink(name, dir_fd=directory.fd)
                self._write(directory, name)
            elif stat.S_ISDIR(status.st_mode) and (below is None or stat.S_ISDIR(below.st_mode)):
                self._make_opaque(path)
        elif written is not None:
            if path in written:
                self._prune(path)
            else:
                try:
                    remove(directory.fd, name)
                except FileNotFoundError:
                    return
            self._tree.forget()

    def _write(self, directory: Directory, name: bytes) -> None:
        os.mknod(name, stat.S_IFCHR, 0, dir_fd=directory.fd)
        path = join(directory.path, name)
        self.made.add(path)
        if path in self._tree.followed:
            self._tree.followed.remove(path)
            self._tree.forget()

    def hide_all(self, directory: Directory) -> None:
        """Hide all that layers below have in the directory."""
        if self._overlay:
            if directory.path:
                if directory.lower >= 0 or self._tree.alone:
                    self._make_opaque(directory.path)
                return
            if self._tree.alone:
                raise NeedsParent
            # Overlayfs does not look for the mark on the root.
            for name in os.listdir(directory.lower):
                self.hide(self._tree.root, os.fsencode(name))
        elif self._tree.written is not None:
            self._prune(directory.path)
            self._tree.forget()

    def _make_opaque(self, path: bytes) -> None:
        """Hide what is below the directory at `path`.

        Whiteouts in it are dropped, since overlayfs would list them as files now; so is what was copied up.
        """
        pending = [path] if self.made or self.copied else []
        while pending:
            inside = pending.pop()
            fd = os.open(inside, OPEN_DIRECTORY, dir_fd=self._tree.root.fd)
            try:
                with os.scandir(fd) as entries:
                    for child in entries:
                        below = join(inside, os.fsencode(child.name))
                        if child.is_dir(follow_symlinks=False):
                            pending.append(below)
                        elif below in self.copied or is_whiteout(child.stat(follow_symlinks=False)):
                            os.unlink(child.name, dir_fd=fd)
            finally:
                os.close(fd)
        self._tree.make_opaque(path)

    def _prune(self, path: bytes) -> None:
        """Remove what is below the directory at `path` but for what this layer wrote; nothing, where it is no directory."""
        written = self._tree.written or set()
        pending = [path]
        while pending:
            path = pending.pop()
            try:
                fd = os.open(path or b".", OPEN_DIRECTORY, dir_fd=self._tree.root.fd)
            except NotADirectoryError:
                continue
            try:
                for child in os.listdir(fd):
                    name = os.fsencode(child)
                    below = join(path, name)
                    if below in written:
                        pending.append(below)
                    else:
                        remove(fd, name)
            finally:
                os.close(fd)
