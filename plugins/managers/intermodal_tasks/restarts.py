"""Restart policies: containers that are started again when they end, and when a daemon starts.

They are kept in containerd's labels, so that a stock client's containers are restarted, too, and its policies are seen by ours:
`containerd.io/restart.policy` (no, always, unless-stopped, on-failure[:N]), `.status` (running: what is wanted), `.count` (restarts so
far), `.explicitly-stopped`, `.loguri` (where the output of a client's container goes when nobody is attached).
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping

import msgspec
from intermodal_core.background import Background
from intermodal_core.contracts.managers.store import Container, Scope, Store
from intermodal_core.errors import IntermodalError, InvalidArgument, NotFound

__all__ = ["COUNT", "EXPLICIT", "LOG", "POLICY", "STATUS", "Restarts", "labels_of", "wants"]

log = logging.getLogger("intermodal.restarts")

_PREFIX = "containerd.io/restart."
POLICY, STATUS, COUNT = f"{_PREFIX}policy", f"{_PREFIX}status", f"{_PREFIX}count"
EXPLICIT, LOG = f"{_PREFIX}explicitly-stopped", f"{_PREFIX}loguri"

_POLICY = re.compile(r"no|always|unless-stopped|on-failure(:(?P<most>[0-9]+))?")
_FIRST, _LONGEST = 0.1, 60.0
#: Seconds after which one that has run is no longer one that fails at once.
_STEADY = 10.0


def labels_of(policy: str) -> dict[str, str]:
    """The labels of a new container with that policy. Raises InvalidArgument for what is none."""
    if not _POLICY.fullmatch(policy):
        raise InvalidArgument(
            f"{policy!r} is no restart policy: write no, always, unless-stopped, on-failure or on-failure:N"
        )
    return {POLICY: policy, STATUS: "stopped" if policy == "no" else "running"}


def wants(labels: Mapping[str, str], status: int | None, at_start: bool = False) -> bool:
    """Whether a container that ended with `status` (None: nobody knows) is to be started again.

    `at_start`: the daemon has just started; `always` then holds even for one that somebody has stopped.
    """
    if labels.get(STATUS) != "running":
        return False
    policy = labels.get(POLICY, "always")
    match = _POLICY.fullmatch(policy)
    if match is None or policy == "no":
        return False
    stopped = labels.get(EXPLICIT) == "true"
    if policy == "always":
        return at_start or not stopped
    if stopped:
        return False
    if policy == "unless-stopped":
        return True
    return status != 0 and (match["most"] is None or _count(labels) < int(match["most"]))


def _count(labels: Mapping[str, str]) -> int:
    count = labels.get(COUNT, "0")
    return int(count) if count.isdigit() else 0


class Restarts:
    """Watches ends. `start(scope, container)` starts a container that has no task any more.

    The pause before a restart doubles from 0.1 s to a minute while the container does not run for ten seconds.
    """

    def __init__(self, store: Store, start: Callable[[Scope, Container], Awaitable[object]]) -> None:
        self._store = store
        self._start = start
        self._background = Background(log)
        self._waiting: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._pauses: dict[tuple[str, str], float] = {}
        self._started: dict[tuple[str, str], float] = {}

    def waits(self, scope: Scope, id: str) -> bool:
        """Whether a restart is to come."""
        return (scope.namespace, id) in self._waiting

    async def ended(self, scope: Scope, id: str, status: int | None, at_start: bool = False) -> None:
        """A container's task has ended and is deleted: start it again after a pause, if its policy says so."""
        key = (scope.namespace, id)
        try:
            record = await self._store.containers.get(scope, id)
        except NotFound:
            return
        if not wants(record.labels, status, at_start) or key in self._waiting:
            return
        steady = time.monotonic() - self._started.get(key, 0.0) >= _STEADY
        pause = 0.0 if at_start else _FIRST if steady else min(2 * self._pauses.get(key, _FIRST / 2), _LONGEST)
        self._pauses[key] = pause
        self._waiting[key] = self._background.begin(self._restart(scope, id, pause))

    async def cancel(self, scope: Scope, id: str) -> None:
        """None is to come; one under way is waited for."""
        waiting = self._waiting.pop((scope.namespace, id), None)
        if waiting is not None and waiting is not asyncio.current_task():
            waiting.cancel()
            await asyncio.wait([waiting])

    async def stopped(self, scope: Scope, record: Container) -> None:
        """Somebody stops it."""
        await self.cancel(scope, record.id)
        if POLICY in record.labels or STATUS in record.labels:
            await self._label(scope, record, {EXPLICIT: "true"})

    async def started(self, scope: Scope, record: Container) -> None:
        """Somebody starts it: what was counted is over."""
        await self.cancel(scope, record.id)
        self._pauses.pop((scope.namespace, record.id), None)
        self._started[scope.namespace, record.id] = time.monotonic()
        if record.labels.get(EXPLICIT, "") == "true" or record.labels.get(COUNT, "0") != "0":
            await self._label(scope, record, {EXPLICIT: "false", COUNT: "0"})

    async def change(self, scope: Scope, record: Container, policy: str) -> None:
        """Another policy from now on."""
        await self._label(scope, record, labels_of(policy))

    async def close(self) -> None:
        """None comes any more; the next daemon goes on."""
        await self._background.cancel()

    async def _restart(self, scope: Scope, id: str, pause: float) -> None:
        key = (scope.namespace, id)
        try:
            await asyncio.sleep(pause)
            record = await self._store.containers.get(scope, id)
            record = await self._label(scope, record, {COUNT: str(_count(record.labels) + 1), EXPLICIT: "false"})
            self._started[key] = time.monotonic()
            await self._start(scope, record)
        except NotFound:
            pass  # it was removed
        except IntermodalError as error:
            log.warning("%s/%s could not be restarted: %s", *key, error)
            self._waiting.pop(key, None)
            await self.ended(scope, id, 255)
        finally:
            if self._waiting.get(key) is asyncio.current_task():
                del self._waiting[key]

    async def _label(self, scope: Scope, record: Container, labels: Mapping[str, str]) -> Container:
        changed = msgspec.structs.replace(record, labels={**record.labels, **labels})
        return await self._store.containers.update(scope, changed, [f"labels.{name}" for name in labels])
