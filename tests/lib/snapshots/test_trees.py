"""Trees: removal, measuring and copying of what a container may leave behind."""

import os
import shutil
import stat
import subprocess
import threading
from pathlib import Path

import pytest
from intermodal_core.contracts.common import Mount, Usage
from intermodal_core.errors import Cancelled, FailedPrecondition
from intermodal_core.testing.trees import age, fill, tree_of
from intermodal_snapshots.copying import can_reflink, copy_tree
from intermodal_snapshots.mounts import mount_all, mounts_below, unmount_all
from intermodal_snapshots.trees import disk_usage, remove_tree

NAME = "d" * 200
DEEP = 1500  # far past PATH_MAX, and past 1,024 descriptors


def _deep(top: Path) -> None:
    """A chain of directories with a file in each, made as a container would: by descriptors."""
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(DEEP):
        os.mkdir(NAME, dir_fd=fd)
        below = os.open(NAME, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


def test_deep_trees_are_measured_copied_and_removed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    _deep(top)
    usage = disk_usage(top)
    assert usage.inodes == 1 + 2 * DEEP
    copy_tree(top, tmp_path / "copy")
    assert disk_usage(tmp_path / "copy").inodes == usage.inodes
    for tree in (top, tmp_path / "copy"):
        remove_tree(tree)
    assert os.listdir(tmp_path) == []


def test_wide_trees_are_removed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    for number in range(10_000):  # more than one batch of subdirectories
        (top / f"d{number}").mkdir()
        (top / f"d{number}" / "file").touch()
    remove_tree(top)
    assert os.listdir(tmp_path) == []
    remove_tree(top)  # nothing there: nothing to do


def test_removal_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/kept").write_text("kept")
    top = tmp_path / "top"
    top.mkdir()
    (top / "link").symlink_to(tmp_path / "outside")
    (top / "file").symlink_to(tmp_path / "outside/kept")
    remove_tree(top)
    assert not top.exists()
    assert (tmp_path / "outside/kept").read_text() == "kept"
    (tmp_path / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(NotADirectoryError):
        remove_tree(tmp_path / "link")
    assert (tmp_path / "outside/kept").exists()


def test_removal_spares_what_is_mounted(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume/precious").write_text("kept")
    point = tmp_path / "top/a b/point"
    point.mkdir(parents=True)
    mount_all([Mount("bind", str(tmp_path / "volume"), ("rbind", "rw"))], point)
    try:
        with pytest.raises(FailedPrecondition, match="something is mounted on"):
            remove_tree(tmp_path / "top")
    finally:
        unmount_all(tmp_path)
    assert (tmp_path / "volume/precious").read_text() == "kept"
    remove_tree(tmp_path / "top")
    assert mounts_below(tmp_path) == []


def test_removal_can_be_interrupted_and_goes_on(tmp_path: Path) -> None:
    fill(tmp_path)
    asked = iter([False, False, True])
    with pytest.raises(Cancelled):
        remove_tree(tmp_path, lambda: next(asked))
    assert tmp_path.exists()
    remove_tree(tmp_path)
    assert not tmp_path.exists()


def test_two_may_remove_at_once(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    for number in range(300):
        (top / f"d{number}/e").mkdir(parents=True)
        (top / f"d{number}/e/file").touch()
    failed: list[Exception] = []

    def remove() -> None:
        try:
            remove_tree(top)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=remove) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed
    assert not top.exists()


def test_usage_counts_hard_links_once(tmp_path: Path) -> None:
    before = disk_usage(tmp_path)
    (tmp_path / "file").write_bytes(os.urandom(8192))
    os.link(tmp_path / "file", tmp_path / "again")
    (tmp_path / "link").symlink_to("file")
    os.sync()
    after = disk_usage(tmp_path)
    assert after.inodes - before.inodes == 2
    assert after.size - before.size >= 8192
    assert isinstance(after, Usage)


def _sparse(top: Path) -> None:
    with open(top / "sparse", "wb") as file:
        file.seek(4 << 20)
        file.write(b"middle")
        file.truncate(64 << 20)
    with open(top / "hole", "wb") as file:
        file.truncate(8 << 20)


def _check_copy(source: Path, target: Path) -> None:
    copy_tree(source, target)
    assert tree_of(target) == tree_of(source)
    assert (target / "etc/hosts").stat().st_ino == (target / "opt/linked").stat().st_ino
    assert (target / "etc/hosts").stat().st_nlink == 2
    assert (target / "sparse").stat().st_blocks * 512 < 1 << 20
    assert (target / "hole").stat().st_blocks == 0
    assert sorted(os.listdir(target.parent)) == sorted(
        {source.name, target.name} | {"lost+found"} & set(os.listdir(target.parent))
    )


def test_copy_keeps_everything(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    fill(source)
    _sparse(source)
    (source / "binary").write_text("x")
    # A capability (cap_net_raw, version 2), as file systems keep it; it goes where an owner changes afterwards.
    os.chown(source / "binary", 5, 6)
    os.setxattr(source / "binary", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    (source / "setuid").write_text("x")
    os.chown(source / "setuid", 7, 8)
    (source / "setuid").chmod(0o6755)
    os.setxattr(source / "opt/link", "trusted.mark", b"on a link", follow_symlinks=False)
    os.mknod(source / "whiteout", stat.S_IFCHR, 0)
    os.mknod(source / "socket", stat.S_IFSOCK | 0o700)
    source.chmod(0o1777)
    age(source)
    _check_copy(source, tmp_path / "target")


@pytest.mark.parametrize("make", ["mkfs.xfs", "mkfs.btrfs"])
def test_copy_shares_blocks_where_it_can(tmp_path: Path, make: str) -> None:
    kind = make.removeprefix("mkfs.")
    if shutil.which(make) is None:
        pytest.skip(f"{make} is not installed")
    if f"\t{kind}\n" not in Path("/proc/filesystems").read_text():
        pytest.skip(f"this kernel has no {kind}")
    image, top = tmp_path / "image", tmp_path / "top"
    with open(image, "wb") as file:
        file.truncate(400 << 20)
    top.mkdir()
    subprocess.run([make, "-q", str(image)], check=True, timeout=60)
    loop = subprocess.run(
        ["losetup", "--find", "--show", str(image)], capture_output=True, text=True, timeout=60, check=False
    )
    if loop.returncode:
        pytest.skip(f"no loop device: {loop.stderr.strip()}")
    device = loop.stdout.strip()
    try:
        mount_all([Mount(kind, device, ("rw",))], top)
        try:
            assert can_reflink(top)
            (top / "source").mkdir()
            fill(top / "source")
            _sparse(top / "source")
            (top / "source/big").write_bytes(os.urandom(1 << 20) * 64)
            age(top / "source")
            os.sync()
            before = os.statvfs(top)
            _check_copy(top / "source", top / "target")
            os.sync()
            after = os.statvfs(top)
            assert (before.f_bfree - after.f_bfree) * before.f_frsize < 32 << 20
        finally:
            unmount_all(top)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True, timeout=60)
