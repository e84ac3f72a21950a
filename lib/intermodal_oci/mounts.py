"""What a container finds mounted, and what of it is masked or read-only; the `-v` syntax."""

import posixpath
from typing import Any, Final

from intermodal_core.contracts.common import Mount
from intermodal_core.errors import InvalidArgument

__all__ = ["MASKED_PATHS", "READONLY_PATHS", "as_spec", "default_mounts", "parse_volume"]

# Kernel interfaces that are not namespaced: they would tell of the host or act on it.
MASKED_PATHS: Final = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READONLY_PATHS: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_BIND_MODES: Final = frozenset({"ro", "rw"})
_PROPAGATIONS: Final = frozenset({"private", "rprivate", "slave", "rslave", "shared", "rshared"})


def default_mounts(*, privileged: bool = False, foreign_network: bool = False) -> list[dict[str, Any]]:
    """The mounts of every container, in the runtime spec's form and in the order they are made.

    `foreign_network`: its network namespace is not of its user namespace, and then the kernel lets it mount no sysfs.
    """
    access = "rw" if privileged else "ro"
    hard = ["nosuid", "noexec", "nodev"]
    return [
        _mount("/proc", "proc", hard),
        _mount("/dev", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount("/dev/pts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        _mount("/dev/shm", "tmpfs", [*hard, "mode=1777", "size=65536k"], source="shm"),
        _mount("/dev/mqueue", "mqueue", hard),
        _mount("/sys", "bind", ["rbind", *hard, "ro"], source="/sys")
        if foreign_network
        else _mount("/sys", "sysfs", [*hard, access]),
        _mount("/sys/fs/cgroup", "cgroup", [*hard, "relatime", access]),
    ]


def parse_volume(text: str) -> Mount:
    """Parse `SRC:DST[:OPTION,...]`, where an option is `ro`, `rw` or a propagation (`rslave`, ...).

    Both paths are absolute paths of the host and of the container. Raises InvalidArgument.
    """
    parts = text.split(":")
    if len(parts) not in (2, 3):
        raise _bad_volume(text, "it must have the form SRC:DST or SRC:DST:ro")
    source, target = parts[0], parts[1]
    for what, path in (("source", source), ("destination", target)):
        if not path.startswith("/"):
            raise _bad_volume(text, f"the {what} {path[:100]!r} must be an absolute path")
        if "\0" in path:
            raise _bad_volume(text, f"the {what} has a NUL character")
    # POSIX keeps a double slash in front; here it means nothing.
    target = "/" + posixpath.normpath(target).lstrip("/")
    if target == "/":
        raise _bad_volume(text, "the destination must not be the root directory")
    access, propagation = "rw", "rprivate"
    for option in parts[2].split(",") if len(parts) == 3 else ():
        if option in _BIND_MODES:
            access = option
        elif option in _PROPAGATIONS:
            propagation = option
        else:
            raise _bad_volume(text, f"unknown option {option[:100]!r}; use ro or rw")
    return Mount("bind", posixpath.normpath(source), ("rbind", propagation, access), target)


def as_spec(mount: Mount) -> dict[str, Any]:
    """A mount in the runtime spec's form. Raises InvalidArgument where it has no absolute target."""
    if not mount.target.startswith("/"):
        raise InvalidArgument(f"A mount of {mount.source!r} needs an absolute target, not {mount.target!r}")
    return _mount(mount.target, mount.type, list(mount.options), source=mount.source)


def _mount(target: str, kind: str, options: list[str], source: str = "") -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source or kind, "options": options}


def _bad_volume(text: str, reason: str) -> InvalidArgument:
    return InvalidArgument(f"Invalid volume {text[:200]!r}: {reason}")
