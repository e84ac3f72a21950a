"""What of a spec is otherwise under gVisor than under the host's kernel."""

from __future__ import annotations

from typing import Any

from intermodal_core.errors import FailedPrecondition

__all__ = ["review"]

#: Devices that gVisor's own kernel has, or that every spec lists.
_DEVICES = frozenset(
    f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", "fuse")
)


def review(spec: dict[str, Any], seccomp: bool) -> list[str]:
    """Sentences. Raises FailedPrecondition for what cannot be honoured: another process's namespaces, and the host's pids."""
    linux = spec.get("linux") or {}
    process = spec.get("process") or {}
    namespaces = {
        each.get("type"): each.get("path", "") for each in linux.get("namespaces") or () if isinstance(each, dict)
    }
    if "pid" not in namespaces:
        raise FailedPrecondition("the container is to see the host's processes, which a kernel of its own cannot show")
    for kind in ("pid", "ipc", "mount", "uts"):
        if namespaces.get(kind):
            raise FailedPrecondition(
                f"the container is to join the {kind} namespace {namespaces[kind]}, which a kernel of its own cannot"
            )
    found = ["system calls are answered by gVisor's kernel: /proc, /sys and uname show that one"]
    if linux.get("seccomp") and not seccomp:
        found.append("the seccomp profile is not applied inside the sandbox (oci_seccomp = true applies it)")
    devices = [each["path"] for each in linux.get("devices") or () if each.get("path") not in _DEVICES]
    if devices:
        found.append(f"devices are not there: {', '.join(devices)}")
    for key, what in (("apparmorProfile", "the AppArmor profile"), ("selinuxLabel", "the SELinux label")):
        if process.get(key):
            found.append(f"{what} {process[key]} does not hold inside the sandbox")
    if linux.get("rootfsPropagation") in ("shared", "rshared", "slave", "rslave"):
        found.append("mounts do not propagate between the host and the container")
    if linux.get("sysctl"):
        found.append(f"sysctls are gVisor's own: {', '.join(sorted(linux['sysctl']))}")
    if linux.get("intelRdt"):
        found.append("cache and bandwidth classes (intelRdt) are not set")
    return found
