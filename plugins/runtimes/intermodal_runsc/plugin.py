"""The entry point `runsc` of `intermodal.runtimes`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from intermodal_core.plugin import Context, Plugin

__all__ = ["Config", "plugin"]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the runtime."""

    binary: Annotated[
        str, msgspec.Meta(description="The runtime: an absolute path, or a name that is sought on the daemon's PATH")
    ] = "runsc"
    root: Annotated[
        str,
        msgspec.Meta(description="Where the runtime keeps its own state, below it a directory a namespace; '' is ours"),
    ] = ""
    platform: Annotated[
        Literal["auto", "systrap", "kvm", "ptrace"],
        msgspec.Meta(description="How a sandbox intercepts system calls; auto is the first one that works here"),
    ] = "auto"
    network: Annotated[
        Literal["auto", "sandbox", "host", "none"],
        msgspec.Meta(
            description="Whose network stack; auto is the sandbox's, and the host's where a container is on the host's"
        ),
    ] = "auto"
    overlay: Annotated[
        str,
        msgspec.Meta(
            description="Keep writes in an overlay of the sandbox's own, as root:memory; they are then in no snapshot,"
            " and swap, commit and diff are refused"
        ),
    ] = "none"
    file_access: Annotated[
        Literal["exclusive", "shared"],
        msgspec.Meta(description="Whether others may change the root filesystem meanwhile (shared), which is slower"),
    ] = "exclusive"
    host_uds: Annotated[
        Literal["none", "open", "create", "all"],
        msgspec.Meta(description="What may be done with unix sockets of the host that are mounted into a container"),
    ] = "none"
    oci_seccomp: Annotated[bool, msgspec.Meta(description="Apply a spec's seccomp filters inside the sandbox, too")] = (
        False
    )
    ignore_cgroups: Annotated[
        bool, msgspec.Meta(description="Make no cgroups: limits do not hold then, and counters are the sandbox's own")
    ] = False
    systemd_cgroup: Annotated[
        bool, msgspec.Meta(description="Have systemd make the cgroups; a spec's cgroupsPath is then slice:prefix:name")
    ] = False
    debug_log: Annotated[
        str, msgspec.Meta(description="A directory with a / at its end, or a file, for gVisor's debug log; '' is none")
    ] = ""
    flags: Annotated[
        dict[str, str], msgspec.Meta(description="Further flags of runsc by name, such as {strace = 'true'}")
    ] = {}


def _make(context: Context[Config]) -> object:
    from intermodal_runsc.runtime import make_runtime

    return make_runtime(context)


plugin = Plugin(
    factory=_make,
    config=Config,
    forked=("intermodal_shim.shim", "intermodal_runsc.shim"),
    capabilities=("exec", "pause", "stats", "checkpoint", "terminal", "attach", "processes"),
)
