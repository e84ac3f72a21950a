"""A laboratory for layers: build them, apply them with the real worker onto real mounts, and list what is there."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from intermodal_core.contracts.common import Descriptor, Mount
from intermodal_core.contracts.differs import Applied
from intermodal_core.spawner import Spawner
from intermodal_snapshots.mounts import mounts_below, temp_mount
from intermodal_tar.differ import WORKER, TarDiffer

PLAIN = "application/vnd.oci.image.layer.v1.tar"
TYPES = {tarfile.DIRTYPE: 0o755}


def entry(name: str | bytes, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **fields: Any) -> tuple[Any, bytes]:
    text = name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name
    info = tarfile.TarInfo(text)
    info.type = kind
    info.size = len(data)
    info.mode = fields.pop("mode", TYPES.get(kind, 0o644))
    info.mtime = fields.pop("mtime", 1_700_000_000)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def tar(*entries: tuple[Any, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format, encoding="utf-8", errors="surrogateescape") as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def listing(top: Path) -> dict[bytes, tuple[Any, ...]]:
    """Everything that a container could tell of the tree, by path; hard links by the first path that shares the inode."""
    found: dict[bytes, tuple[Any, ...]] = {}
    first: dict[tuple[int, int], bytes] = {}
    root = os.fsencode(top)
    pending = [b""]
    while pending:
        path = pending.pop()
        full = root + b"/" + path if path else root
        status = os.lstat(full)
        kind = stat.S_IFMT(status.st_mode)
        content: Any = None
        if kind == stat.S_IFREG:
            content = hashlib.sha256(Path(os.fsdecode(full)).read_bytes()).hexdigest()
        elif kind == stat.S_IFLNK:
            content = os.readlink(full)
        elif kind == stat.S_IFDIR:
            pending += sorted((path + b"/" + name if path else name for name in os.listdir(full)), reverse=True)
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            content = status.st_rdev
        linked = path if kind == stat.S_IFDIR else first.setdefault((status.st_dev, status.st_ino), path)
        xattrs = {
            name: os.getxattr(full, name, follow_symlinks=False)
            for name in os.listxattr(full, follow_symlinks=False)
            if not name.startswith("trusted.overlay.")
        }
        found[path] = (oct(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns, content, linked, xattrs)
    return found


class Lab:
    """One differ and a directory for what a test makes."""

    entry = staticmethod(entry)
    tar = staticmethod(tar)
    listing = staticmethod(listing)

    def __init__(self, spawner: Spawner, top: Path) -> None:
        self.spawner = spawner
        self.top = top
        self.differ = TarDiffer(spawner, top / "scratch")

    def apply(
        self,
        data: bytes,
        mounts: Sequence[Mount],
        media_type: str = PLAIN,
        differ: TarDiffer | None = None,
        **options: Any,
    ) -> Applied:
        with tempfile.TemporaryFile(dir=self.top) as file:
            file.write(data)
            file.seek(0)
            descriptor = Descriptor(media_type, "sha256:0", len(data))
            return (differ or self.differ).apply(file.fileno(), descriptor, tuple(mounts), **options)

    def directory(self, name: str = "root") -> tuple[Path, Mount]:
        """A new empty directory and its bind mount."""
        path = Path(tempfile.mkdtemp(prefix=name, dir=self.top))
        path.chmod(0o755)
        return path, Mount("bind", str(path), ("rbind", "rw"))

    def overlay(self, *lowers: Path, extra: tuple[str, ...] = ()) -> tuple[Path, Mount]:
        """A new upper directory above the lower ones, the topmost first, and its mount."""
        upper = Path(tempfile.mkdtemp(prefix="upper", dir=self.top))
        work = Path(tempfile.mkdtemp(prefix="work", dir=self.top))
        # The root's attributes are the upper directory's: a snapshotter copies them.
        below = lowers[0].stat()
        os.chown(upper, below.st_uid, below.st_gid)
        shutil.copystat(lowers[0], upper)
        options = (
            f"workdir={work}",
            f"upperdir={upper}",
            "lowerdir=" + ":".join(map(str, lowers)),
            "index=off",
            *extra,
        )
        return upper, Mount("overlay", "overlay", options)

    def unpacked(self, *layers: bytes) -> Path:
        """A directory with these layers applied one onto the other, as the native snapshotter has it."""
        path, mount = self.directory("native")
        for layer in layers:
            self.apply(layer, [mount])
        return path

    def copied(self, source: Path) -> tuple[Path, Mount]:
        path, mount = self.directory("copy")
        subprocess.run(["cp", "-a", f"{source}/.", str(path)], check=True, timeout=60)
        return path, mount

    @contextmanager
    def seen(self, *mounts: Mount) -> Iterator[Path]:
        with temp_mount(mounts, self.top) as path:
            yield path

    def clear(self) -> None:
        for path in self.top.iterdir():
            if path.is_dir():
                shutil.rmtree(path)


@pytest.fixture(scope="session")
def spawner() -> Iterator[Spawner]:
    spawner = Spawner()
    spawner.preload(WORKER)
    yield spawner
    spawner.close()


@pytest.fixture
def lab(spawner: Spawner, tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(spawner, tmp_path)
    yield lab
    lab.differ.close()
    assert mounts_below(tmp_path) == []
    scratch = tmp_path / "scratch"
    assert not scratch.exists() or not list(scratch.iterdir())
    shutil.rmtree(tmp_path)


@pytest.fixture
def gz() -> Any:
    return lambda data: gzip.compress(data, 6, mtime=0)
