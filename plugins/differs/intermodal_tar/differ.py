"""`TarDiffer`: the contract's differ, which leaves every byte of a layer to a sealed worker of its own."""

from __future__ import annotations

import errno
import json
import os
import select
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from intermodal_core import syscalls
from intermodal_core.contracts.common import Descriptor, Mount
from intermodal_core.contracts.differs import Alone, Applied, ApplyLimits, Compared
from intermodal_core.errors import (
    Cancelled,
    DeadlineExceeded,
    Internal,
    Unavailable,
    Unimplemented,
    by_code,
    from_os_error,
)

from intermodal_tar.media_types import MEDIA_TYPES
from intermodal_tar.settling import settle

if TYPE_CHECKING:
    from intermodal_core.spawner import Child, Spawner

__all__ = ["WORKER", "TarDiffer"]

WORKER = "intermodal_tar.worker"
_OPAQUE = b"trusted.overlay.opaque"
_REPLACED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # by a later entry of the layer


class TarDiffer:
    """Applies tar layers, plain, gzip and zstd, onto mounts.

    `scratch` is an empty directory on which the workers mount, each in a namespace of its own; it is made where it is
    missing. `spawner` has preloaded `WORKER`. `timeout` is what one layer may take, in seconds (0: any time). Without
    `devices`, a layer with a device node is refused. `sync` writes the filesystem to disk before `apply` returns.
    """

    def __init__(
        self,
        spawner: Spawner,
        scratch: Path,
        *,
        limits: ApplyLimits | None = None,
        devices: bool = True,
        sync: bool = False,
        timeout: float = 0,
    ) -> None:
        self._spawner = spawner
        self._scratch = scratch
        self._limits = limits
        self._devices = devices
        self._sync = sync
        self._timeout = timeout
        self._lock = threading.Lock()
        self._workers: set[Child] = set()
        self._closed = False

    def media_types(self) -> tuple[str, ...]:
        """The layer media types of OCI and Docker."""
        return tuple(MEDIA_TYPES)

    def apply(
        self,
        layer: int,
        descriptor: Descriptor,
        mounts: tuple[Mount, ...],
        limits: ApplyLimits | None = None,
        alone: bool = False,
    ) -> Applied:
        """As the contract has it. `limits` default to those of this differ.

        Raises DeadlineExceeded after `timeout`, Cancelled where `close` was called meanwhile, Unavailable where the
        worker was killed by somebody else.
        """
        if descriptor.media_type not in MEDIA_TYPES:
            raise Unimplemented(f"This differ applies no layers of type {descriptor.media_type}; it takes tar layers")
        self._scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        task = {
            "mounts": msgspec.to_builtins(mounts),
            "media_type": descriptor.media_type,
            "scratch": str(self._scratch),
            "limits": msgspec.to_builtins(limits or self._limits or ApplyLimits()),
            "devices": self._devices,
            "sync": self._sync,
            "alone": alone,
        }
        outcome = self._work("apply_in_worker", task, layer)
        _mark_opaque(mounts, [path.encode("utf-8", "surrogateescape") for path in outcome["opaque"]])
        return msgspec.convert(outcome["applied"], Applied)

    def compare(
        self,
        lower: tuple[Mount, ...],
        upper: tuple[Mount, ...],
        into: int,
        media_type: str,
        latest: int | None = None,
    ) -> Compared:
        """As the contract has it."""
        if media_type not in MEDIA_TYPES:
            raise Unimplemented(f"This differ makes no layers of type {media_type}; it makes tar layers")
        self._scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        task = {
            "lower": msgspec.to_builtins(lower),
            "upper": msgspec.to_builtins(upper),
            "media_type": media_type,
            "scratch": str(self._scratch),
            "latest": latest,
        }
        return msgspec.convert(self._work("compare_in_worker", task, into)["compared"], Compared)

    def _work(self, function: str, task: dict[str, Any], descriptor: int) -> dict[str, Any]:
        """What a worker of its own makes of the task. Raises what it says, or what became of it."""
        pipe, theirs = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                child = self._spawner.fork(f"{WORKER}:{function}", [task], [descriptor, theirs])
            finally:
                os.close(theirs)
            outcome = self._outcome(child, pipe)
        finally:
            os.close(pipe)
        if "code" in outcome:
            raise by_code(outcome["code"], outcome["message"])
        return outcome

    def settle(self, layers: tuple[Alone, ...], below: tuple[Mount, ...]) -> int:
        """As the contract has it."""
        return settle(layers, below)

    def close(self) -> None:
        """End all workers; their calls raise Cancelled. Idempotent."""
        with self._lock:
            self._closed = True
            for child in self._workers:
                child.kill()

    async def stop(self) -> None:
        """The daemon ends."""
        self.close()

    def _outcome(self, child: Child, pipe: int) -> dict[str, Any]:
        with self._lock:
            self._workers.add(child)
            if self._closed:
                child.kill()
        until = time.monotonic() + self._timeout if self._timeout else None
        ended = False
        try:
            data = self._read(pipe, until)
            status = child.wait(10)
            ended = True
        finally:
            if not ended:
                child.kill()
                child.wait(10)
            with self._lock:
                self._workers.discard(child)
            child.close()
        text = data.strip()
        if text.endswith(b"}"):
            outcome: dict[str, Any] = json.loads(text)
            return outcome
        if self._closed:
            raise Cancelled("The layer was not applied: the differ was closed meanwhile")
        if status > 0:
            raise Internal(f"The apply worker {child.pid} ended with status {status} and no outcome; its log tells why")
        raise Unavailable(f"The apply worker {child.pid} was killed before it was done; the layer may be applied anew")

    def _read(self, pipe: int, until: float | None) -> bytes:
        data = b""
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        while True:
            wait = None if until is None else max(0.0, until - time.monotonic()) * 1000
            if not poll.poll(wait):
                raise DeadlineExceeded(f"The layer was not applied within {self._timeout:g} s, the differ's timeout")
            more = os.read(pipe, 1 << 16)
            if not more:
                return data
            data += more.lstrip(b"\n") if not data else more


def _mark_opaque(mounts: Sequence[Mount], paths: Sequence[bytes]) -> None:
    """Set the mark for which the worker lacks the capability, following nothing that the layer may have made."""
    if not paths:
        return
    upper = next(option.partition("=")[2] for option in mounts[0].options if option.startswith("upperdir="))
    root = os.open(upper, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    beneath = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_XDEV
    try:
        for path in paths:
            try:
                fd = syscalls.openat2(root, path, os.O_RDONLY | os.O_DIRECTORY, resolve=beneath)
            except OSError as error:
                if error.errno in _REPLACED:
                    continue
                raise
            try:
                os.setxattr(fd, _OPAQUE, b"y")
            finally:
                os.close(fd)
    except OSError as error:
        raise from_os_error(error, f"mark opaque directories below {upper}") from error
    finally:
        os.close(root)
