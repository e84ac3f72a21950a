"""The tasks manager: containers as processes, and the composite calls that commands make.

The plain calls are containerd's Tasks service. The composite ones (`run`, `remove`, ...) are crash-safe operations.
Task states, exits and the runtime chosen are records; a restart takes up every task that lives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import msgspec

from intermodal_core.contracts.common import Mount
from intermodal_core.contracts.managers.networks import AttachmentView
from intermodal_core.contracts.managers.store import AnyValue, Container, Scope
from intermodal_core.contracts.networks import PortMapping
from intermodal_core.contracts.runtimes import Exit, ProcessState, Stdio

__all__ = [
    "BindMount",
    "Composite",
    "ContainerView",
    "ExecOptions",
    "Metric",
    "RunOptions",
    "RuntimeView",
    "TaskCreate",
    "Tasks",
]


class TaskCreate(msgspec.Struct, frozen=True):
    """What a client gives to create a task."""

    container: str
    rootfs: tuple[Mount, ...] = ()
    stdio: Stdio = Stdio()
    options: AnyValue | None = None
    runtime_path: str = ""
    checkpoint: str = ""


class Metric(msgspec.Struct, frozen=True):
    """Counters of one task, as `Stats` of the runtimes contract."""

    id: str
    timestamp: int
    type_url: str
    data: bytes


class Tasks(Protocol):
    """containerd's Tasks service by meaning. exec_id "" is init."""

    async def create(self, scope: Scope, request: TaskCreate) -> int: ...
    async def start(self, scope: Scope, container: str, exec_id: str = "") -> int: ...
    async def delete(self, scope: Scope, container: str, exec_id: str = "") -> Exit: ...
    async def get(self, scope: Scope, container: str, exec_id: str = "") -> ProcessState: ...
    async def select(self, scope: Scope) -> list[ProcessState]: ...
    async def kill(self, scope: Scope, container: str, signal: int, exec_id: str = "", all: bool = False) -> None: ...
    async def exec(self, scope: Scope, container: str, exec_id: str, process: bytes, stdio: Stdio) -> None: ...
    async def resize(self, scope: Scope, container: str, width: int, height: int, exec_id: str = "") -> None: ...
    async def close_stdin(self, scope: Scope, container: str, exec_id: str = "") -> None: ...
    async def pause(self, scope: Scope, container: str) -> None: ...
    async def resume(self, scope: Scope, container: str) -> None: ...
    async def pids(self, scope: Scope, container: str) -> list[int]: ...
    async def update(self, scope: Scope, container: str, resources: bytes) -> None: ...
    async def metrics(self, scope: Scope, filters: Sequence[str] = ()) -> list[Metric]: ...
    async def checkpoint(
        self, scope: Scope, container: str, path: str, options_type: str = "", options: bytes = b""
    ) -> None: ...
    async def wait(self, scope: Scope, container: str, exec_id: str = "") -> Exit: ...
    async def forward(self, namespace: str, topic: str, type_url: str, event: bytes) -> None:
        """Take an event from a shim; returns once it is committed. Exits are recorded, others passed to the bus."""


class BindMount(msgspec.Struct, frozen=True):
    """-v SRC:DST[:ro]; both absolute."""

    source: str
    target: str
    readonly: bool = False


class RunOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`imod run`. Memory in bytes (0: no limit), cpus in cores (0: no limit).

    `net` is one network's name, or several. `pull` is when the image is pulled: where it is not here, each time, or never.
    `restart` is no, always, unless-stopped, on-failure or on-failure:N.
    """

    image: str
    args: tuple[str, ...] = ()
    name: str = ""
    net: tuple[str, ...] | str = ()
    ports: tuple[PortMapping, ...] = ()
    ips: tuple[str, ...] = ()
    mac: str = ""
    dns: tuple[str, ...] = ()
    runtime: str = ""
    snapshotter: str = ""
    env: tuple[str, ...] = ()
    mounts: tuple[BindMount, ...] = ()
    memory: int = 0
    cpus: float = 0.0
    user: str = ""
    workdir: str = ""
    hostname: str = ""
    entrypoint: tuple[str, ...] | None = None
    labels: dict[str, str] = {}
    readonly: bool = False
    privileged: bool = False
    userns: str = ""  # ranges of ids, CONTAINER:HOST:SIZE with commas between, of a user namespace
    terminal: bool = False
    interactive: bool = False
    remove: bool = False
    pull: Literal["missing", "always", "never"] = "missing"
    restart: str = "no"


class ExecOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`imod exec`."""

    args: tuple[str, ...]
    env: tuple[str, ...] = ()
    user: str = ""
    workdir: str = ""
    terminal: bool = False
    interactive: bool = False


class ContainerView(msgspec.Struct, frozen=True):
    """A container and its task, as lists show them; `status` is "created", "running", "paused", "stopped" or "unknown"."""

    id: str
    image: str
    status: str
    pid: int
    exit_code: int | None
    runtime: str
    snapshotter: str
    network: str
    created_at: int
    started_at: int
    exited_at: int
    labels: dict[str, str]
    command: str


class Composite(Protocol):
    """What commands call; `managers.tasks` has it as its attribute `composite`.

    Output goes to a log in the CRI format from the start, below the daemon's root, and to the descriptors given.
    """

    async def create(self, scope: Scope, options: RunOptions) -> Container:
        """Resolve, unpack, prepare, build the spec, record: an operation. A name is made up where none is given."""

    async def run(self, scope: Scope, options: RunOptions, fds: tuple[int, int, int] | None) -> RunningProcess:
        """`create`, then create the task, attach the descriptors (None: detached) and start it.

        With `options.remove` the container is removed when it ends, also when the daemon was restarted meanwhile.
        """

    async def start(self, scope: Scope, container: str, fds: tuple[int, int, int] | None) -> RunningProcess:
        """Start a container that `create` made or that has stopped."""

    async def exec(
        self, scope: Scope, container: str, options: ExecOptions, fds: tuple[int, int, int] | None
    ) -> RunningProcess: ...

    async def stop(self, scope: Scope, container: str, timeout: float = 10.0) -> int:
        """The image's stop signal (SIGTERM), after `timeout` seconds SIGKILL; returns the exit status."""

    async def kill(self, scope: Scope, container: str, signal: int, all: bool = False) -> None: ...
    async def pause(self, scope: Scope, container: str) -> None: ...
    async def resume(self, scope: Scope, container: str) -> None: ...
    async def remove(self, scope: Scope, container: str, force: bool = False) -> None:
        """Delete task, snapshot, record and log. Raises FailedPrecondition when it runs and `force` is false."""

    async def connect(
        self, scope: Scope, container: str, network: str, addresses: tuple[str, ...] = ()
    ) -> AttachmentView | None:
        """Put a container into one more network, now where it runs (what came of it), and at each start."""

    async def disconnect(self, scope: Scope, container: str, network: str) -> None:
        """Take a container out of a network. Raises NotFound, FailedPrecondition for its last one."""

    async def networks_wanted(self) -> set[str]:
        """The networks that containers of any namespace are in when they run."""

    async def select(self, scope: Scope, all: bool = False) -> list[ContainerView]: ...
    async def get(self, scope: Scope, container: str) -> ContainerView:
        """By id, or by the first characters of one where they are enough."""

    async def inspect(self, scope: Scope, container: str) -> dict[str, Any]:
        """Everything known, ready for JSON."""

    async def logs(self, scope: Scope, container: str) -> list[str]:
        """The paths of its log files, oldest first; the last one is being written while it runs."""

    def timings(self, scope: Scope, container: str) -> list[tuple[str, float]]:
        """The phases of its last start: name and seconds."""

    async def runtimes(self) -> list[RuntimeView]:
        """Every runtime, made ready if it can be, with the containers of all namespaces."""


class RuntimeView(msgspec.Struct, frozen=True):
    """A runtime as lists show it: what it is on this machine, and the containers that stay with it until they are deleted.

    `default` is the sentence that says who made it the default, "" where it is none. `otherwise` are the containers,
    NAMESPACE/ID, that were made when its options or its version were others. `state` is the plugin's, or `pinned` for one that only containers know any more.
    """

    name: str
    plugin: str = ""
    state: str = ""
    reason: str = ""
    binary: str = ""
    version: str = ""
    default: str = ""
    containers: int = 0
    running: int = 0
    otherwise: tuple[str, ...] = ()


class RunningProcess(Protocol):
    """A process that a command runs."""

    container: str
    exec_id: str
    pid: int

    async def wait(self) -> Exit:
        """When it has ended and its output has been delivered. An exec process is then deleted."""

    async def kill(self, signal: int) -> None: ...
    async def resize(self, width: int, height: int) -> None: ...
    async def close_stdin(self) -> None: ...
