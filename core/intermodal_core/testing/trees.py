"""Trees with one of everything, how they look, and many threads at once: what several kits need."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from intermodal_core.errors import IntermodalError

__all__ = ["THREADS", "age", "at_once", "fill", "tree_of"]

THREADS: Final = 64
_OVERLAY_XATTRS: Final = ("trusted.overlay.", "user.overlay.")


def tree_of(top: Path) -> dict[str, tuple[Any, ...]]:
    """All that a program can see of a tree, by path: type and mode, owner, size, mtime, content, link, xattrs, device."""
    found = {}
    for directory, directories, files in os.walk(top):
        for name in ("", *directories, *files) if directory == str(top) else (*directories, *files):
            path = os.path.join(directory, name)
            status = os.lstat(path)
            content: bytes | str = b""
            if stat.S_ISREG(status.st_mode):
                content = Path(path).read_bytes()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            names = [x for x in os.listxattr(path, follow_symlinks=False) if not x.startswith(_OVERLAY_XATTRS)]
            found[os.path.relpath(path, top)] = (
                oct(status.st_mode),
                status.st_uid,
                status.st_gid,
                status.st_mtime_ns,
                status.st_rdev,
                content,
                {x: os.getxattr(path, x, follow_symlinks=False) for x in sorted(names)},
            )
    return found


def fill(top: Path) -> None:
    """A tree with one of everything."""
    (top / "etc").mkdir()
    (top / "etc/hosts").write_text("localhost\n")
    (top / "etc/passwd").write_text("root\n")
    (top / "etc/passwd").chmod(0o4640)
    os.chown(top / "etc/passwd", 12, 34)
    (top / "opt/deep/er").mkdir(parents=True)
    (top / "opt/deep/er/file").write_bytes(b"\0" * 70000 + b"end")
    os.link(top / "etc/hosts", top / "opt/linked")
    (top / "opt/link").symlink_to("/etc/hosts")
    os.mkfifo(top / "opt/fifo")
    os.mknod(top / "opt/null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.setxattr(top / "opt/deep", "trusted.mark", b"here")
    age(top)


def age(top: Path) -> None:
    """The same times everywhere, so that trees made at different moments compare equal."""
    for directory, directories, files in os.walk(top, topdown=False):
        for name in (*directories, *files):
            os.utime(os.path.join(directory, name), ns=(10**18 + 7, 10**18 + 7), follow_symlinks=False)
    os.utime(top, ns=(10**18 + 7, 10**18 + 7))


def at_once(work: Callable[[int], object]) -> list[object]:
    """Run `work(number)` in 64 threads that start together; results or IntermodalErrors, by number."""
    barrier = threading.Barrier(THREADS)

    def run(number: int) -> object:
        barrier.wait(timeout=60)
        try:
            return work(number)
        except IntermodalError as error:
            return error

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(run, range(THREADS), timeout=120))
