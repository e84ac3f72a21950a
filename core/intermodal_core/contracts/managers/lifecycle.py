"""What is done with containers once they are there: counters, limits, restarts, checkpoints, another runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from intermodal_core.contracts.managers.store import Scope
from intermodal_core.contracts.managers.tasks import RunningProcess

__all__ = ["Change", "Counters", "Lifecycle", "ProcessView", "SwapReport", "UpdateOptions"]


class Counters(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a running container has used, whatever its runtime and the kernel's cgroups: bytes, ns of processors, numbers.

    A counter that nobody counts is None, and not there in JSON; so is a limit that there is not. `source` says who counted:
    "cgroup", "runtime" or "shim". `memory` is without the cache that the kernel can drop at once, where that is known.
    """

    id: str
    runtime: str
    source: str
    timestamp: int
    cpu: int | None = None
    memory: int | None = None
    memory_limit: int | None = None
    pids: int | None = None
    pids_limit: int | None = None
    read_bytes: int | None = None
    written_bytes: int | None = None
    oom_kills: int | None = None


class ProcessView(msgspec.Struct, frozen=True):
    """A process of a container as the host sees it; `cpu` in ns, `memory` resident bytes."""

    pid: int
    uid: int
    cpu: int
    memory: int
    command: str


class UpdateOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`imod update`: what is None stays. Memory in bytes, cpus in cores; `restart` is a policy."""

    memory: int | None = None
    cpus: float | None = None
    pids: int | None = None
    restart: str | None = None


class Change(msgspec.Struct, frozen=True):
    """A path that a container has changed, against its image; a directory above a change may be listed as well."""

    path: str
    kind: Literal["added", "changed", "deleted"]


class SwapReport(msgspec.Struct, frozen=True):
    """What a swap did or, with `dry_run`, would do; `differences` are sentences about what is otherwise there."""

    container: str
    before: str
    after: str
    differences: tuple[str, ...]
    done: bool


class Lifecycle(Protocol):
    """`managers.tasks` has it as its attribute `lifecycle`. Containers are named as for `Composite`."""

    async def restart(self, scope: Scope, container: str, timeout: float = 10.0) -> None:
        """Stop it, if it runs, and start it, detached."""

    async def attach(self, scope: Scope, container: str, fds: tuple[int, int, int]) -> RunningProcess:
        """Its init, with these descriptors as further streams. Raises FailedPrecondition where it does not run."""

    async def update(self, scope: Scope, container: str, options: UpdateOptions) -> None:
        """Change limits, now where it runs and at every start, and the restart policy."""

    async def stats(self, scope: Scope, containers: Sequence[str] = ()) -> list[Counters]:
        """Of these, or of all that run."""

    async def top(self, scope: Scope, container: str) -> list[ProcessView]:
        """Its processes. A runtime whose processes are not the host's shows what runs them."""

    async def diff(self, scope: Scope, container: str) -> list[Change]:
        """What it has changed. Raises FailedPrecondition where its writes are hidden."""

    async def checkpoint(self, scope: Scope, container: str, name: str = "default", leave_running: bool = False) -> str:
        """Write a checkpoint of a running container; returns its directory. Raises Unimplemented, naming the runtime and why,
        before anything is done where it takes none; AlreadyExists.
        """

    async def restore(self, scope: Scope, container: str, name: str = "default") -> None:
        """Start a stopped container from its checkpoint, detached. Raises FailedPrecondition for one of another runtime."""

    async def swap(
        self, scope: Scope, container: str, runtime: str, snapshotter: str = "", dry_run: bool = False
    ) -> SwapReport:
        """Stop it and start it again on another runtime: the same writable layer, spec and network identity.

        With a `snapshotter` its changes are compared out, and applied onto the image unpacked there; `runtime` may then be "".

        One that did not run is not started. Where the new one does not start, the old one comes back, and the error says
        so. Raises FailedPrecondition where writes are hidden from the host, or what the spec asks for cannot be had there.
        """
