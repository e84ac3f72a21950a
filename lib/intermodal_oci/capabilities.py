"""Linux capabilities: the default set, additions and removals, and what this machine can grant."""

from collections.abc import Iterable
from functools import cache
from typing import Final

from intermodal_core.errors import InvalidArgument

__all__ = ["ALL", "DEFAULT", "as_spec", "choose", "grantable"]

_ALL = """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
    NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT
    SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL
    SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
_DEFAULT = """
    CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT
    KILL AUDIT_WRITE
"""

ALL: Final = tuple(f"CAP_{name}" for name in _ALL.split())
"""Every capability; the place of each is its number (include/uapi/linux/capability.h)."""
DEFAULT: Final = tuple(f"CAP_{name}" for name in _DEFAULT.split())
"""Docker's and containerd's set: enough for what distributions' packages do, nothing that touches the host."""


@cache
def grantable() -> frozenset[str]:
    """What this process could pass on: its bounding set.

    A runtime that is told to grant more fails, so defaults are cut to this.
    """
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        mask = next((int(line.split()[1], 16) for line in status if line.startswith("CapBnd:")), 0)
    return frozenset(name for bit, name in enumerate(ALL) if mask >> bit & 1)


def choose(add: Iterable[str] = (), drop: Iterable[str] = (), *, privileged: bool = False) -> list[str]:
    """The capabilities of a container: the default set (or, privileged, all), less `drop`, plus `add`.

    Names are written with or without `CAP_`, in any case; `ALL` stands for every one. What this machine cannot
    grant is left out of the default and of ALL, but kept where it is named. Raises InvalidArgument for an
    unknown name.
    """
    can = grantable()
    dropped = {name for text in drop for name in _expand(text)}
    added = [name for text in add for name in _expand(text) if text.upper() != "ALL" or name in can]
    start = ALL if privileged else DEFAULT
    chosen = {name for name in start if name in can} - dropped | set(added)
    return [name for name in ALL if name in chosen]


def as_spec(names: list[str]) -> dict[str, list[str]]:
    """The sets of a runtime spec's process.

    Inheritable and ambient stay empty: a file's inheritable capabilities must not raise a container's user.
    """
    return {"bounding": names, "effective": names, "permitted": names}


def _expand(text: str) -> tuple[str, ...]:
    name = text.upper()
    if name == "ALL":
        return ALL
    if not name.startswith("CAP_"):
        name = "CAP_" + name
    if name not in ALL:
        raise InvalidArgument(f"Unknown capability {text[:100]!r}; write it as capabilities(7) does, or ALL")
    return (name,)
