"""Whom a container's process runs as: `user[:group]`, looked up in the image's own files.

The rules are Docker's: a number is an id even where a user bears it as a name; a user named without a group
gets its primary group and every group that lists it; a group named is the only one. The primary group is
always among the supplementary ones too, so that a file whose mode denies it to that group stays denied after
a setgid program ran.
"""

import os
import stat
from collections.abc import Iterator
from typing import Final, NamedTuple

from intermodal_core.errors import InvalidArgument
from intermodal_core.syscalls import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2

__all__ = ["MAX_FILE", "MAX_ID", "User", "read_beneath", "resolve_user"]

MAX_FILE: Final = 1 << 20
"""Bytes in a user or group file that are read at most."""
MAX_ID: Final = (1 << 31) - 1


class User(NamedTuple):
    """Numeric ids, as the runtime spec wants them."""

    uid: int
    gid: int
    additional_gids: tuple[int, ...]


def resolve_user(user: str, rootfs: str | None) -> User:
    """The ids for `user`: "" (root), "name", "uid", "name:group", "uid:gid" or any mix.

    Args:
        user: as in an image's config or given by a client.
        rootfs: the image's root directory; None where there is none to look at, and then only numbers are known.

    Raises:
        InvalidArgument: no such user or group in the image, a number out of range, or a file there that is too
            large, no regular file, or not readable.
    """
    name, colon, group = user.partition(":")
    if (colon and not group) or ":" in group:
        raise InvalidArgument(f"User {user[:100]!r} must be USER or USER:GROUP, each a name or a number")
    name = name or "0"
    uid = _number(name)
    passwd = _lines(rootfs, "etc/passwd", 4)
    entry = _find(passwd, 0, name) if uid is None else _find(passwd, 2, str(uid))
    if entry:
        uid, gid = _id_field(entry, 2, "etc/passwd"), _id_field(entry, 3, "etc/passwd")
    elif uid is not None:
        gid = 0
    else:
        raise InvalidArgument(f"The image has no user {name[:100]!r} in /etc/passwd; give a numeric id instead")
    if group:
        gid = _resolve_group(group, rootfs)
        return User(uid, gid, (gid,))
    others = _groups_of(entry[0], rootfs) if entry else ()
    return User(uid, gid, tuple(dict.fromkeys((gid, *others))))


def _resolve_group(group: str, rootfs: str | None) -> int:
    gid = _number(group)
    if gid is not None:
        return gid
    entry = _find(_lines(rootfs, "etc/group", 3), 0, group)
    if not entry:
        raise InvalidArgument(f"The image has no group {group[:100]!r} in /etc/group; give a numeric id instead")
    return _id_field(entry, 2, "etc/group")


def _groups_of(name: str, rootfs: str | None) -> Iterator[int]:
    for fields in _lines(rootfs, "etc/group", 4):
        if name in fields[3].split(","):
            yield _id_field(fields, 2, "etc/group")


def _find(lines: Iterator[list[str]], column: int, value: str) -> list[str] | None:
    return next((fields for fields in lines if fields[column] == value), None)


def _lines(rootfs: str | None, path: str, columns: int) -> Iterator[list[str]]:
    """The fields of each well-formed line; an absent file has none."""
    if rootfs is None:
        return
    for line in read_beneath(rootfs, path).decode("utf-8", "surrogateescape").split("\n"):
        fields = line.strip().split(":")
        if len(fields) >= columns and fields[0] and not fields[0].startswith("#"):
            yield fields


def read_beneath(rootfs: str, path: str, limit: int = MAX_FILE) -> bytes:
    """The content of a regular file of an image; b"" where there is none.

    Links are followed as a process inside the image would: one that is absolute or climbs out leads to the
    image's own root, never to the host's. Raises InvalidArgument where the file is larger than `limit` bytes or
    not a regular file, or a link leads in circles.
    """
    where = f"/{path} of the image"
    try:
        root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # O_PATH first: to open a device or a FIFO that an image puts here could block or act.
            handle = openat2(root, path, os.O_PATH, resolve=RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
        finally:
            os.close(root)
    except (FileNotFoundError, NotADirectoryError):
        return b""
    except OSError as error:
        raise InvalidArgument(f"Cannot open {where}: {error.strerror}") from None
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise InvalidArgument(f"{where} is not a regular file")
        with open(f"/proc/self/fd/{handle}", "rb") as file:
            data = file.read(limit + 1)
    finally:
        os.close(handle)
    if len(data) > limit:
        raise InvalidArgument(f"{where} has more than {limit} bytes")
    return data


def _number(text: str) -> int | None:
    """The number that `text` is, or None. Raises InvalidArgument where no id can be so large."""
    if not (text.isascii() and text.isdigit()):
        return None
    if len(text) > 20 or int(text) > MAX_ID:
        raise InvalidArgument(f"Id {text[:100]} is out of range; the largest is {MAX_ID}")
    return int(text)


def _id_field(fields: list[str], column: int, path: str) -> int:
    number = _number(fields[column])
    if number is None:
        raise InvalidArgument(f"/{path} of the image gives {fields[0][:100]!r} an id that is no number")
    return number
