"""What a user asks of a new container, made a runtime spec. Pure: nothing here speaks to the daemon."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypedDict

from google.protobuf.any_pb2 import Any as AnyMessage
from intermodal_core.contracts.common import Mount
from intermodal_core.errors import InvalidArgument
from intermodal_oci import limits, mounts
from intermodal_oci.model import ImageConfig
from intermodal_oci.spec import SpecOptions, build_spec

SPEC_TYPE: Final = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
PROCESS_TYPE: Final = "types.containerd.io/opencontainers/runtime-spec/1/Process"
STOP_SIGNAL_LABEL: Final = "io.containerd.image.config.stop-signal"
STDIN_LABEL: Final = "dev.intermodal.stdin"
"""On a container: "none" where its standard input is not kept open."""

_HOST_FILES: Final = ("/etc/hosts", "/etc/resolv.conf")


class ContainerOptions(TypedDict, total=False):
    """What `containers.create` and `containers.run` take besides name, image and command.

    What is left out is as the image says, or as usual.
    """

    entrypoint: Sequence[str]
    """Replaces the image's entrypoint and drops its command; [] for none."""
    environment: Mapping[str, str] | Sequence[str]
    """A mapping, or `KEY=VALUE` items; over the image's."""
    working_dir: str
    user: str
    """`USER[:GROUP]`, names or numbers. Names need a client that is root, to look them up in the image."""
    hostname: str
    """Default: the container's name."""
    tty: bool
    stdin_open: bool
    """Keep standard input open until `close_stdin`, also when the client goes. Default: True for `create`."""
    network: str
    """"none" (an empty network namespace; the default), "host", or the path of a network namespace."""
    volumes: Sequence[str]
    """`SRC:DST[:ro]`, host paths."""
    read_only: bool
    """Whether the root file system is read-only."""
    memory: int | str
    """Bytes, or a text such as "64m"."""
    cpus: float
    """Processors' worth of time, such as 1.5."""
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    privileged: bool
    cap_add: Sequence[str]
    cap_drop: Sequence[str]
    runtime: str
    """Default: the namespace's, else io.containerd.runc.v2."""
    snapshotter: str
    """Default: the namespace's, else overlayfs where the daemon has it, else native."""
    platform: str
    """Of an image for several, such as linux/arm64. Default: this machine's."""


def make_spec(
    config: ImageConfig,
    name: str,
    namespace: str,
    command: str | Sequence[str] | None,
    options: ContainerOptions,
    rootfs: str | None,
) -> dict[str, Any]:
    """The runtime spec; users are looked up below `rootfs` (None: numbers only). Raises InvalidArgument."""
    memory = options.get("memory")
    network = options.get("network", "none")
    entrypoint = options.get("entrypoint")
    return build_spec(
        SpecOptions(
            image_config=config,
            args=as_arguments(command),
            entrypoint=None if entrypoint is None else tuple(entrypoint),
            env=as_environment(options.get("environment", ())),
            cwd=options.get("working_dir", ""),
            user=options.get("user", ""),
            hostname=options.get("hostname", name[:64]),
            terminal=options.get("tty", False),
            rootfs=rootfs,
            readonly=options.get("read_only", False),
            network="new" if network == "none" else network,
            mounts=_mounts(network, options.get("volumes", ())),
            memory=limits.parse_memory(memory) if isinstance(memory, str) else memory,
            cpus=options.get("cpus"),
            cgroups_path=f"/{namespace}/{name}",
            annotations=dict(options.get("annotations", {})),
            privileged=options.get("privileged", False),
            add_capabilities=tuple(options.get("cap_add", ())),
            drop_capabilities=tuple(options.get("cap_drop", ())),
        )
    )


def make_labels(config: ImageConfig, options: ContainerOptions) -> dict[str, str]:
    """A container's labels: the image's, what the client remembers there, and above all the user's."""
    labels = {key: value for key, value in config.config.labels.items() if key and len(key + value) <= 1024}
    if config.config.stop_signal:
        labels[STOP_SIGNAL_LABEL] = config.config.stop_signal
    if not options.get("stdin_open", True):
        labels[STDIN_LABEL] = "none"
    return labels | dict(options.get("labels", {}))


def as_arguments(command: str | Sequence[str] | None) -> tuple[str, ...]:
    """A command as its arguments; a text is one that has no arguments, since no shell splits it."""
    if command is None:
        return ()
    return (command,) if isinstance(command, str) else tuple(command)


def as_environment(environment: Mapping[str, str] | Sequence[str]) -> tuple[str, ...]:
    """Either form of an environment as `KEY=VALUE` items. Raises InvalidArgument for a lone text."""
    if isinstance(environment, str):
        raise InvalidArgument("The environment must be a mapping or a list of KEY=VALUE, not a text")
    if isinstance(environment, Mapping):
        return tuple(f"{key}={value}" for key, value in environment.items())
    return tuple(environment)


def as_any(type_url: Literal["Spec", "Process"], document: Mapping[str, Any]) -> AnyMessage:
    """A document of the runtime specification as containerd's API carries it: JSON in Any."""
    url = SPEC_TYPE if type_url == "Spec" else PROCESS_TYPE
    return AnyMessage(type_url=url, value=json.dumps(document).encode())


def _mounts(network: str, volumes: Sequence[str]) -> tuple[Mount, ...]:
    if isinstance(volumes, str):
        raise InvalidArgument("Volumes must be a list of SRC:DST[:ro], not a text")
    own = [mounts.parse_volume(volume) for volume in volumes]
    taken = {mount.target for mount in own}
    # On the host's network its names are wanted too.
    files = [path for path in _HOST_FILES if network == "host" and path not in taken and os.path.exists(path)]
    return tuple(own) + tuple(Mount("bind", path, ("rbind", "ro"), path) for path in files)
