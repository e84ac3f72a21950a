"""Id-mapped mounts: a tree whose owners are shifted, for a container in a user namespace, without touching a file.

A mapping is written as in containerd's labels and mount options: `CONTAINER:HOST:SIZE`, several with commas between.

Public sources followed: mount_setattr(2), user_namespaces(7).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from intermodal_core import syscalls as sc
from intermodal_core.contracts.common import Mount
from intermodal_core.errors import InvalidArgument, Unimplemented

__all__ = ["Mapping", "host_id", "mapped_tree", "parse_mapping", "split_mapping", "unmapped"]

#: Ranges of ids: in the container, on the host, how many.
Mapping = tuple[tuple[int, int, int], ...]


def parse_mapping(text: str) -> Mapping:
    """`0:100000:65536` as numbers. Raises InvalidArgument."""
    ranges = []
    for part in text.split(","):
        numbers = part.split(":")
        if len(numbers) != 3 or not all(number.isdecimal() for number in numbers) or not int(numbers[2]):
            raise InvalidArgument(f"{text!r} is no mapping of ids: write CONTAINER:HOST:SIZE, such as 0:100000:65536")
        inside, outside, size = map(int, numbers)
        ranges.append((inside, outside, size))
    return tuple(ranges)


def host_id(mapping: Mapping, inside: int) -> int:
    """The host's id of one in the container. Raises InvalidArgument for one that is not mapped."""
    for first, outside, size in mapping:
        if first <= inside < first + size:
            return outside + inside - first
    raise InvalidArgument(f"the mapping of ids lacks {inside}")


def split_mapping(options: Sequence[str]) -> tuple[tuple[str, ...], tuple[Mapping, Mapping] | None]:
    """Mount options without `uidmap=` and `gidmap=`, and what those say, where both are there. Raises InvalidArgument."""
    found = {}
    rest = []
    for word in options:
        name, _, value = word.partition("=")
        if name in ("uidmap", "gidmap"):
            found[name] = parse_mapping(value)
        else:
            rest.append(word)
    if not found:
        return tuple(rest), None
    if len(found) != 2:
        raise InvalidArgument("a mount has both uidmap= and gidmap=, or neither")
    return tuple(rest), (found["uidmap"], found["gidmap"])


def unmapped(mounts: Sequence[Mount]) -> list[Mount]:
    """The mounts with the owners that are on disk: for who has threads, and does not look at owners."""
    return [Mount(mount.type, mount.source, split_mapping(mount.options)[0], mount.target) for mount in mounts]


@contextmanager
def mapped_tree(path: str, uids: Mapping, gids: Mapping) -> Iterator[int]:
    """The tree at `path` with its owners mapped, as a detached mount: a descriptor to be attached or gone into.

    The process must have one thread, since a child of it makes the user namespace. Raises Unimplemented where the kernel
    or the filesystem cannot map, and OSError.
    """
    namespace = _user_namespace(uids, gids)
    try:
        tree = sc.open_tree(path)
        try:
            try:
                sc.map_mount(tree, namespace)
            except OSError as error:
                raise Unimplemented(
                    f"the owners of {path} cannot be mapped by this kernel and filesystem: {error}"
                ) from error
            yield tree
        finally:
            os.close(tree)
    finally:
        os.close(namespace)


def _user_namespace(uids: Mapping, gids: Mapping) -> int:
    """One with these mappings, that only the descriptor keeps."""
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    child = os.fork()  # noqa: TID251 - the process has one thread, as is said
    if not child:
        try:
            sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL)
            sc.unshare(sc.CLONE_NEWUSER)
            os.write(theirs, b"1")
            while True:
                signal.pause()
        finally:
            os._exit(1)
    try:
        os.close(theirs)
        if not os.read(ours, 1):
            raise Unimplemented("user namespaces cannot be made here; see sysctl user.max_user_namespaces")
        for name, mapping in (("uid_map", uids), ("gid_map", gids)):
            with open(f"/proc/{child}/{name}", "w") as file:
                file.write("".join(f"{inside} {outside} {size}\n" for inside, outside, size in mapping))
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(ours)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
