"""Mounts: options become flags, lists are mounted whole or not at all, and nothing stays."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from intermodal_core import syscalls as sc
from intermodal_core.contracts.common import Mount
from intermodal_core.errors import InvalidArgument, NotFound
from intermodal_snapshots.mounts import (
    filesystem_of,
    mount_all,
    mounts_below,
    parse_options,
    temp_mount,
    unmount_all,
)

TMPFS = Mount("tmpfs", "tmpfs", ("size=4m",))


@pytest.fixture
def top(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    assert mounts_below(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "flags", "data", "propagation"),
    [
        ((), 0, (), ()),
        (("ro", "rbind"), sc.MS_RDONLY | sc.MS_BIND | sc.MS_REC, (), ()),
        (("ro", "rw", "nosuid"), sc.MS_NOSUID, (), ()),
        (("index=off", "lowerdir=/a:/b", "noatime"), sc.MS_NOATIME, ("index=off", "lowerdir=/a:/b"), ()),
        (("rslave", "private"), 0, (), (sc.MS_SLAVE | sc.MS_REC, sc.MS_PRIVATE)),
        (("relatime", "userxattr"), sc.MS_RELATIME, ("userxattr",), ()),
    ],
)
def test_options(options: tuple[str, ...], flags: int, data: tuple[str, ...], propagation: tuple[int, ...]) -> None:
    assert parse_options(options) == (flags, data, propagation)


@pytest.mark.parametrize("options", [("",), ("ro", "a\0b")])
def test_malformed_options(options: tuple[str, ...]) -> None:
    with pytest.raises(InvalidArgument):
        parse_options(options)


def test_a_list_is_mounted_in_order_and_unmounted(top: Path) -> None:
    (top / "source").mkdir()
    (top / "source/file").write_text("x")
    point = top / "a point"
    point.mkdir()
    (top / "source/below").mkdir()
    mount_all(
        [
            Mount("bind", str(top / "source"), ("rbind", "ro", "nosuid", "nodev")),
            Mount(**{**_fields(TMPFS), "target": "/below"}),
        ],
        point,
    )
    assert filesystem_of(point / "below") == "tmpfs"
    with pytest.raises(OSError, match="Read-only"):
        (point / "file").write_text("y")
    assert os.statvfs(point).f_flag & (os.ST_NOSUID | os.ST_NODEV) == os.ST_NOSUID | os.ST_NODEV
    (point / "below/file").write_text("in memory")
    assert mounts_below(point) == [str(point / "below"), str(point)]
    unmount_all(point)
    assert os.listdir(point) == []
    unmount_all(point)


def _fields(mount: Mount) -> dict[str, Any]:
    return {name: getattr(mount, name) for name in mount.__struct_fields__}


def test_a_target_never_leads_out(top: Path) -> None:
    (top / "outside").mkdir()
    (top / "root/outside").mkdir(parents=True)
    (top / "root/link").symlink_to("/outside")
    (top / "root/up").symlink_to("../../outside")
    for target in ("link", "up", "../outside"):
        mount_all([Mount("tmpfs", "tmpfs", (), target)], top / "root")
        assert mounts_below(top) == [str(top / "root/outside")]
        unmount_all(top / "root")


def test_nothing_stays_where_one_fails(top: Path) -> None:
    with pytest.raises(NotFound):
        mount_all([TMPFS, Mount("bind", str(top / "nowhere"), ("rbind",))], top)
    with pytest.raises(InvalidArgument):
        mount_all([TMPFS, Mount("tmpfs", "tmpfs", ("nonsense=1",))], top)
    with pytest.raises(InvalidArgument, match="kernel's page"):
        mount_all([Mount("tmpfs", "tmpfs", ("x" * 5000,))], top)


def test_busy_mounts_are_detached(top: Path) -> None:
    mount_all([TMPFS], top)
    with open(top / "file", "w") as file:
        unmount_all(top)
        assert mounts_below(top) == []
        file.write("still there")


def test_temp_mount_is_undone_after_an_error(top: Path) -> None:
    with pytest.raises(KeyError), temp_mount([TMPFS], top) as place:
        raise KeyError(filesystem_of(place))
    assert os.listdir(top) == []
    with pytest.raises(NotFound), temp_mount([Mount("bind", "/nowhere-at-all", ("rbind",))], top):
        pass
    assert os.listdir(top) == []
