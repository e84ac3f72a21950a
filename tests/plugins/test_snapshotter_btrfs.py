"""btrfs keeps the snapshotter contract, on a filesystem in a loop device; and what is its own."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from intermodal_btrfs.ioctls import changed_inodes, exclusive_bytes, is_subvolume
from intermodal_btrfs.plugin import Config, plugin
from intermodal_btrfs.snapshotter import BtrfsSnapshotter
from intermodal_core.contracts.common import Mount
from intermodal_core.errors import PluginSkipped
from intermodal_core.testing.contexts import context_of
from intermodal_core.testing.snapshotters import Factory, SnapshotterKit
from intermodal_snapshots.mounts import temp_mount

from tests.harness.btrfs import btrfs

_number = itertools.count()


@pytest.fixture(scope="module")
def filesystem(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with btrfs(tmp_path_factory.mktemp("btrfs"), 1024) as point:
        yield point


@pytest.fixture
def directory(filesystem: Path) -> Iterator[Path]:
    """One on btrfs, of the test's own."""
    path = filesystem / str(next(_number))
    path.mkdir()
    yield path
    remove(path)


def remove(path: Path) -> None:
    for inner in sorted(subvolumes(path), key=lambda each: -len(each.parts)):
        subprocess.run(["btrfs", "subvolume", "delete", str(inner)], check=True, capture_output=True)
    shutil.rmtree(path)


def subvolumes(top: Path) -> list[Path]:
    return [
        Path(path, name)
        for path, directories, _ in os.walk(top)
        for name in directories
        if is_subvolume(os.lstat(os.path.join(path, name)))
    ]


class TestKit(SnapshotterKit):
    capabilities = frozenset(plugin.capabilities)

    @pytest.fixture
    def place(self, directory: Path) -> Path:
        return directory

    @pytest.fixture
    def factory(self) -> Factory:
        return BtrfsSnapshotter

    def damage(self, root: Path, marker: str) -> None:
        found = next(tree for tree in subvolumes(root) if marker in os.listdir(tree))
        subprocess.run(["btrfs", "subvolume", "delete", str(found)], check=True, capture_output=True)


def test_plugin_makes_one_on_btrfs_alone(directory: Path, tmp_path: Path) -> None:
    snapshotter = plugin.factory(context_of("snapshotters", "btrfs", Config(), directory))
    assert snapshotter.prepare("a") == [Mount("bind", f"{directory}/root/snapshots/1/fs", ("rw", "rbind"))]
    snapshotter.close()
    with pytest.raises(PluginSkipped, match="not on btrfs") as caught:
        plugin.factory(context_of("snapshotters", "btrfs", Config(), tmp_path))
    assert "another snapshotter" in caught.value.remedy


def test_a_snapshot_shares_what_it_did_not_change(directory: Path) -> None:
    snapshotter = BtrfsSnapshotter(directory / "root")
    with temp_mount(snapshotter.prepare("work"), directory) as top:
        (top / "big").write_bytes(os.urandom(4 << 20))
        (top / "kept").mkdir()
    snapshotter.commit("base", "work")
    snapshotter.prepare("run", "base")
    assert snapshotter.usage("base").size >= 4 << 20
    assert (snapshotter.usage("run").size, snapshotter.usage("run").inodes) == (0, 0)
    with temp_mount(snapshotter.mounts("run"), directory) as top:
        (top / "kept/new").write_bytes(os.urandom(1 << 20))
        os.sync()
    usage = snapshotter.usage("run")
    assert 1 << 20 <= usage.size < 2 << 20
    assert usage.inodes == 2  # the file, and the directory that it is in
    snapshotter.close()


def test_subvolumes_that_a_container_made_go_with_its_snapshot(directory: Path) -> None:
    snapshotter = BtrfsSnapshotter(directory / "root", sync_remove=True)
    with temp_mount(snapshotter.prepare("run"), directory) as top:
        (top / "a").mkdir()
        for name in ("a/outer", "a/outer/inner", "other"):
            subprocess.run(["btrfs", "subvolume", "create", str(top / name)], check=True, capture_output=True)
        (top / "a/outer/inner/file").touch()
        (top / "link").symlink_to("a/outer")
    assert len(subvolumes(directory)) == 4
    snapshotter.remove("run")
    assert subvolumes(directory) == []
    assert os.listdir(directory / "root/snapshots") == []
    snapshotter.close()


def test_quota_groups_say_what_is_exclusive(tmp_path: Path) -> None:
    with btrfs(tmp_path, quotas=True) as point:
        snapshotter = BtrfsSnapshotter(point / "root")
        with temp_mount(snapshotter.prepare("work"), point) as top:
            (top / "one").write_bytes(os.urandom(1 << 20))
            subprocess.run(["cp", "--reflink=always", str(top / "one"), str(top / "two")], check=True)
        snapshotter.commit("base", "work")
        snapshotter.prepare("run", "base")  # from now on nothing of it is exclusive
        subprocess.run(["btrfs", "quota", "rescan", "-w", str(point)], check=True, capture_output=True)
        assert exclusive_bytes(point / "root/snapshots/1/fs") is not None
        tree = point / "root/snapshots/1/fs"
        assert sum(changed_inodes(tree)) >= 2 << 20
        assert 1 << 20 <= snapshotter.usage("base").size < 2 << 20
        snapshotter.close()
        remove(point / "root")


def test_without_quotas_nothing_is_counted(directory: Path) -> None:
    assert exclusive_bytes(directory) is None
