"""The OCI runtime spec of a container: an image's config and what its user asked for, made one plain document.

`build_spec` for the container, `build_process` for a further process in it (exec). The documents are dicts of
the runtime specification 1.0, ready for JSON; no rlimit is set, as not every machine may raise one.
"""

import os
import posixpath
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from intermodal_core.contracts.common import Mount
from intermodal_core.errors import InvalidArgument

from intermodal_oci import capabilities, limits, mounts, seccomp
from intermodal_oci.model import ImageConfig
from intermodal_oci.users import User, resolve_user

__all__ = ["DEFAULT_PATH", "OCI_VERSION", "SpecOptions", "build_process", "build_spec", "merge_env"]

OCI_VERSION: Final = "1.0.2"
DEFAULT_PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MAX_HOSTNAME: Final = 64  # the kernel's __NEW_UTS_LEN

# What an exec takes over from the container's process.
_PRIVILEGES: Final = (
    "capabilities",
    "noNewPrivileges",
    "apparmorProfile",
    "selinuxLabel",
    "rlimits",
    "oomScoreAdj",
)


class SpecOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What decides a container's spec. Empty, None and False mean: as the image says, or as usual."""

    image_config: ImageConfig = msgspec.field(default_factory=ImageConfig)
    args: tuple[str, ...] = ()
    """The command; appended to the entrypoint, instead of the image's own (`Cmd`)."""
    entrypoint: tuple[str, ...] | None = None
    """Replaces the image's entrypoint and drops its command; () for none."""
    env: tuple[str, ...] = ()
    """`K=V`, over the image's."""
    cwd: str = ""
    user: str = ""
    """`user[:group]`, names or numbers."""
    hostname: str = ""
    terminal: bool = False
    rootfs: str | None = None
    """The image's root directory as it is now mounted, where users are looked up; None: numbers only."""
    root_path: str = "rootfs"
    """What the spec names as root: absolute, or relative to the bundle."""
    readonly: bool = False
    """Whether the root file system is read-only."""
    network: str = "new"
    """"host", "new", or the path of a network namespace."""
    mounts: tuple[Mount, ...] = ()
    """After the usual ones; one with the target of a usual one replaces it."""
    memory: int | None = None
    """Bytes."""
    cpus: float | None = None
    """Processors' worth of time, such as 1.5."""
    cgroups_path: str = ""
    annotations: dict[str, str] = {}
    privileged: bool = False
    """All capabilities, no seccomp, nothing masked or read-only, every device."""
    ids: tuple[tuple[int, int, int], ...] = ()
    """Ranges of user and group ids, (in the container, on the host, how many), of a user namespace; () for none."""
    add_capabilities: tuple[str, ...] = ()
    drop_capabilities: tuple[str, ...] = ()
    seccomp: bool = True
    no_new_privileges: bool = True


def build_spec(options: SpecOptions) -> dict[str, Any]:
    """The runtime spec for `options`.

    Raises InvalidArgument: no command, an unknown user or capability, a malformed variable, mount, limit,
    network, host name or working directory; the sentence names which.
    """
    if len(options.hostname) > _MAX_HOSTNAME:
        raise InvalidArgument(f"The host name {options.hostname[:80]!r} has more than {_MAX_HOSTNAME} characters")
    granted = capabilities.choose(options.add_capabilities, options.drop_capabilities, privileged=options.privileged)
    return {
        "ociVersion": OCI_VERSION,
        "process": _process(options, granted),
        "root": {"path": options.root_path, "readonly": options.readonly},
        **({"hostname": options.hostname} if options.hostname else {}),
        "mounts": _mounts(options),
        **({"annotations": dict(options.annotations)} if options.annotations else {}),
        "linux": _linux(options, granted),
    }


def build_process(
    spec: dict[str, Any],
    args: Sequence[str],
    *,
    env: Sequence[str] = (),
    cwd: str = "",
    user: str = "",
    terminal: bool = False,
    rootfs: str | None = None,
) -> dict[str, Any]:
    """The process object for an exec in a container that was made from `spec`.

    It has the container's environment, directory, user and privileges but for what is given here; `env` adds and
    replaces by key. `rootfs` is needed for a `user` that is a name. Raises InvalidArgument.
    """
    base: dict[str, Any] = spec["process"]
    return {
        **{key: base[key] for key in _PRIVILEGES if key in base},
        "terminal": terminal,
        "user": _user_as_spec(resolve_user(user, rootfs)) if user else base["user"],
        "args": _checked_args(args),
        "env": merge_env(["TERM=xterm"] if terminal else [], base.get("env", ()), env),
        "cwd": _directory(cwd, "") if cwd else base["cwd"],
    }


def merge_env(*layers: Iterable[str]) -> list[str]:
    """Merge lists of `K=V`: a later one replaces an earlier one's value, in the earlier one's place.

    PATH is there in any case. Raises InvalidArgument for an item without a key or `=`, or with a NUL.
    """
    merged = {"PATH": DEFAULT_PATH}
    for layer in layers:
        for item in layer:
            key, equals, _ = item.partition("=")
            if not key or not equals or "\0" in item:
                raise InvalidArgument(f"Invalid environment variable {item[:100]!r}; write KEY=VALUE")
            merged[key] = item
    return list(merged.values())


def _process(options: SpecOptions, granted: list[str]) -> dict[str, Any]:
    image = options.image_config.config
    user = resolve_user(options.user or image.user, options.rootfs)
    # An image may list a bare KEY; it sets nothing.
    image_env = [item for item in image.env if "=" in item[1:]]
    return {
        "terminal": options.terminal,
        "user": _user_as_spec(user),
        "args": _command(options),
        "env": merge_env(["TERM=xterm"] if options.terminal else [], image_env, options.env),
        "cwd": _directory(options.cwd, image.working_dir),
        "capabilities": capabilities.as_spec(granted),
        "noNewPrivileges": options.no_new_privileges and not options.privileged,
    }


def _command(options: SpecOptions) -> list[str]:
    image = options.image_config.config
    if options.entrypoint is None:
        return _checked_args([*image.entrypoint, *(options.args or image.cmd)])
    return _checked_args([*options.entrypoint, *options.args])


def _checked_args(args: Sequence[str]) -> list[str]:
    if not args or not args[0]:
        raise InvalidArgument("There is no command to run: the image names none; give one")
    if any("\0" in arg for arg in args):
        raise InvalidArgument("The command has a NUL character in an argument")
    return list(args)


def _directory(asked: str, image: str) -> str:
    if asked and not asked.startswith("/"):
        raise InvalidArgument(f"The working directory {asked[:100]!r} must be an absolute path")
    path = posixpath.normpath(posixpath.join("/", asked or image))
    if "\0" in path:
        raise InvalidArgument("The working directory has a NUL character")
    return "/" + path.lstrip("/")


def _user_as_spec(user: User) -> dict[str, Any]:
    return {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.additional_gids)}


def _mounts(options: SpecOptions) -> list[dict[str, Any]]:
    own = [mounts.as_spec(mount) for mount in options.mounts]
    targets = {mount["destination"] for mount in own}
    foreign = bool(options.ids) and options.network != "new"
    usual = mounts.default_mounts(privileged=options.privileged, foreign_network=foreign)
    return [mount for mount in usual if mount["destination"] not in targets] + own


def _linux(options: SpecOptions, granted: list[str]) -> dict[str, Any]:
    linux: dict[str, Any] = {"namespaces": _namespaces(options.network), "resources": _resources(options)}
    if options.ids:
        linux["namespaces"].append({"type": "user"})
        for key in ("uidMappings", "gidMappings"):
            linux[key] = [
                {"containerID": inside, "hostID": outside, "size": size} for inside, outside, size in options.ids
            ]
    if options.cgroups_path:
        linux["cgroupsPath"] = options.cgroups_path
    if not options.privileged:
        linux["maskedPaths"] = list(mounts.MASKED_PATHS)
        linux["readonlyPaths"] = list(mounts.READONLY_PATHS)
        if options.seccomp:
            linux["seccomp"] = seccomp.default_profile(granted)
    return linux


def _namespaces(network: str) -> list[dict[str, str]]:
    kinds = ["pid", "ipc", "uts", "mount"]
    if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        kinds.append("cgroup")
    namespaces = [{"type": kind} for kind in kinds]
    if network == "new":
        namespaces.append({"type": "network"})
    elif network.startswith("/"):
        namespaces.append({"type": "network", "path": network})
    elif network != "host":
        raise InvalidArgument(f"Unknown network {network[:100]!r}; it is host, new, or a namespace's absolute path")
    return namespaces


def _resources(options: SpecOptions) -> dict[str, Any]:
    resources: dict[str, Any] = {"devices": [{"allow": options.privileged, "access": "rwm"}]}
    if options.memory is not None:
        resources["memory"] = {"limit": limits.check_memory(options.memory)}
    if options.cpus is not None:
        resources["cpu"] = {"quota": limits.cpu_quota(options.cpus), "period": limits.CPU_PERIOD}
    return resources
