"""What btrfs offers through ioctl(2): subvolumes, their snapshots, and what a quota group counts.

Public source followed: the kernel's include/uapi/linux/btrfs.h and btrfs_tree.h.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

__all__ = [
    "changed_inodes",
    "create_subvolume",
    "delete_subvolume",
    "exclusive_bytes",
    "is_subvolume",
    "snapshot",
    "subvolume_id",
]

#: The inode number of a subvolume's root directory, and the first of those below it.
_ROOT_INODE: Final = 256
_QUOTA_TREE: Final = 8
_INODE_ITEM: Final = 1
_QGROUP_INFO: Final = 242
_MAX: Final = (1 << 64) - 1

_ARGS: Final = 4096  # the size of most arguments
_WRITE, _READ, _BOTH = 1, 2, 3


def _number(direction: int, command: int, size: int = _ARGS) -> int:
    return direction << 30 | size << 16 | 0x94 << 8 | command


_SEARCH_KEY: Final = struct.Struct("=7Q4I32x")  # tree, objectids, offsets, transids (each from, to), types, items
_SEARCH_SIZE: Final = struct.Struct("=Q")
_BUFFER: Final = 256 << 10
_SUBVOL_INFO: Final = 504
_PARENT_UUID: Final = slice(312, 328)  # in it, of a snapshot: zeros in another's
_OTRANSID: Final = slice(352, 360)  # the transaction that made it

_SUBVOL_CREATE: Final = _number(_WRITE, 14)
_SNAP_DESTROY: Final = _number(_WRITE, 15)
_TREE_SEARCH_V2: Final = _number(_BOTH, 17, _SEARCH_KEY.size + _SEARCH_SIZE.size)
_INO_LOOKUP: Final = _number(_BOTH, 18)
_SNAP_CREATE_V2: Final = _number(_WRITE, 23)
_GET_SUBVOL_INFO: Final = _number(_READ, 60, _SUBVOL_INFO)

_VOL_ARGS: Final = struct.Struct("=q4088s")  # fd, name
_VOL_ARGS_V2: Final = struct.Struct("=qQQ32x4040s")  # fd, transid, flags, -, name
_ITEM: Final = struct.Struct("=QQQII")  # transid, objectid, offset, type, length
_INODE: Final = struct.Struct("=QQQQ")  # generation, transid, size, bytes on disk
_QGROUP: Final = struct.Struct("=5Q")  # generation, referenced, -compressed, exclusive, -compressed


def create_subvolume(path: Path) -> None:
    """Make an empty subvolume at `path`. Raises OSError."""
    with _directory(path.parent) as fd:
        fcntl.ioctl(fd, _SUBVOL_CREATE, bytearray(_VOL_ARGS.pack(0, os.fsencode(path.name))))


def snapshot(source: Path, path: Path) -> None:
    """Make `path` a writable snapshot of the subvolume `source`. Raises OSError."""
    with _directory(source) as origin, _directory(path.parent) as fd:
        fcntl.ioctl(fd, _SNAP_CREATE_V2, bytearray(_VOL_ARGS_V2.pack(origin, 0, 0, os.fsencode(path.name))))


def delete_subvolume(path: Path) -> None:
    """Delete the subvolume at `path`; its space is freed in the background. Raises OSError, ENOTEMPTY for one with others in it."""
    with _directory(path.parent) as fd:
        fcntl.ioctl(fd, _SNAP_DESTROY, bytearray(_VOL_ARGS.pack(0, os.fsencode(path.name))))


def is_subvolume(status: os.stat_result) -> bool:
    """Whether this is the root of a subvolume; of something on btrfs."""
    return status.st_ino == _ROOT_INODE


def subvolume_id(path: Path) -> int:
    """The id of the subvolume that `path` is in. Raises OSError."""
    argument = bytearray(struct.pack("=QQ4080x", 0, _ROOT_INODE))
    with _directory(path) as fd:
        fcntl.ioctl(fd, _INO_LOOKUP, argument)
    return int.from_bytes(argument[:8], "little")


def exclusive_bytes(path: Path) -> int | None:
    """Bytes that the subvolume at `path` shares with no other, as of the last commit; None where quotas are off.

    Raises OSError.
    """
    group = subvolume_id(path)  # of level 0, the subvolume's own
    with _directory(path) as fd:
        try:
            for _, _, data in _search(fd, _QUOTA_TREE, (0, _QGROUP_INFO, group), (0, _QGROUP_INFO, group)):
                return int(_QGROUP.unpack_from(data)[3])
        except FileNotFoundError:
            pass  # there is no such tree
    return None


def changed_inodes(path: Path) -> Iterator[int]:
    """Bytes on disk of each inode that was made or changed in the subvolume at `path` since that was made, as of the last commit.

    Of one made empty these are all that it has; of a snapshot those in which it differs from its source. Looks at the
    changed parts of the subvolume's tree alone. Raises OSError.
    """
    with _directory(path) as fd:
        info = bytearray(_SUBVOL_INFO)
        fcntl.ioctl(fd, _GET_SUBVOL_INFO, info)
        # A snapshot ends the transaction that it is made in; what an empty one gets may be of the same one.
        made = int.from_bytes(info[_OTRANSID], "little") if any(info[_PARENT_UUID]) else 0
        for _, kind, data in _search(fd, 0, (_ROOT_INODE, 0, 0), (_MAX, 255, _MAX), made):
            if kind == _INODE_ITEM:
                _, changed, _, size = _INODE.unpack_from(data)
                if changed > made:
                    yield size


def _search(
    fd: int, tree: int, first: tuple[int, int, int], last: tuple[int, int, int], since: int = 0
) -> Iterator[tuple[int, int, memoryview]]:
    """(objectid, type, bytes) of the items from one key (objectid, type, offset) to another, of blocks not older than `since`."""
    argument = bytearray(_SEARCH_KEY.size + _SEARCH_SIZE.size + _BUFFER)
    while first <= last:
        (objectid, kind, offset), (last_objectid, last_kind, last_offset) = first, last
        key = (tree, objectid, last_objectid, offset, last_offset, since, _MAX, kind, last_kind, 0xFFFFFFFF, 0)
        _SEARCH_KEY.pack_into(argument, 0, *key)
        _SEARCH_SIZE.pack_into(argument, _SEARCH_KEY.size, _BUFFER)
        fcntl.ioctl(fd, _TREE_SEARCH_V2, argument)
        count = _SEARCH_KEY.unpack_from(argument)[9]
        if not count:
            return
        view, at = memoryview(argument), _SEARCH_KEY.size + _SEARCH_SIZE.size
        for _ in range(count):
            _, objectid, offset, kind, length = _ITEM.unpack_from(argument, at)
            at += _ITEM.size
            yield objectid, kind, view[at : at + length]
            at += length
        first = (objectid, kind, offset + 1) if offset < _MAX else (objectid, kind + 1, 0)


@contextmanager
def _directory(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
