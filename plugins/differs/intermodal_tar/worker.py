"""The apply worker: one forked process a layer, sealed before it reads any of it.

Everything that it will ever need is imported here, since nothing can be once it is sealed; that includes what libraries
load lazily (OpenSSL reads its configuration at the first hash, a thread that is cancelled loads libgcc).
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
from intermodal_core import syscalls
from intermodal_core.contracts.common import Mount
from intermodal_core.contracts.differs import ApplyLimits
from intermodal_core.errors import (
    FailedPrecondition,
    IntermodalError,
    Internal,
    InvalidArgument,
    ResourceExhausted,
    from_os_error,
)

from intermodal_tar.apply import apply_layer, apply_layer_alone
from intermodal_tar.changes import changes
from intermodal_tar.decompress import LayerStream
from intermodal_tar.packing import pack
from intermodal_tar.seal import drop_privileges, enter, enter_pair

__all__ = ["CompareTask", "Task", "apply_in_worker", "compare_in_worker"]

hashlib.sha256(b"")
ctypes.CDLL("libgcc_s.so.1")

_PULSE: Final = 16 << 20


class Task(msgspec.Struct, frozen=True):
    """What a worker is told: where and what to unpack, and how."""

    mounts: tuple[Mount, ...]
    media_type: str
    scratch: str
    limits: ApplyLimits = ApplyLimits()
    devices: bool = True
    sync: bool = False
    alone: bool = False


class CompareTask(msgspec.Struct, frozen=True):
    """What a worker is told that compares."""

    lower: tuple[Mount, ...]
    upper: tuple[Mount, ...]
    media_type: str
    scratch: str
    latest: int | None = None


def compare_in_worker(args: list[Any], fds: list[int]) -> int:
    """Write the layer that the CompareTask in `args[0]` asks for to `fds[0]`, and the outcome to the pipe `fds[1]`.

    One JSON object: `compared`, or `code` and `message`.
    """
    into, pipe = fds
    return _report(lambda: _compare(msgspec.convert(args[0], CompareTask), into, pipe), pipe, "compare the trees")


def _compare(task: CompareTask, into: int, pipe: int) -> dict[str, Any]:
    pair = enter_pair(task.lower, task.upper, task.scratch)
    drop_privileges([into, pipe, *(fd for fd in pair if fd >= 0)])
    found = changes(pair.lower, pair.upper, pair.guide)
    return {"compared": msgspec.to_builtins(pack(found, pair.upper, into, task.media_type, task.latest))}


def apply_in_worker(args: list[Any], fds: list[int]) -> int:
    """Apply the layer in `fds[0]` as the Task in `args[0]` says, and write the outcome to the pipe `fds[1]`.

    A newline is written for each 16 MiB unpacked, then one JSON object: `applied` and `opaque` (paths to be marked,
    bytes as UTF-8 with surrogate escapes), or `code` (a gRPC status number) and `message`.
    """
    gc.disable()  # nothing here makes cycles, and the spawner's memory stays shared
    layer, pipe = fds
    return _report(lambda: _apply(msgspec.convert(args[0], Task), layer, pipe), pipe, "apply the layer")


def _report(work: Callable[[], dict[str, Any]], pipe: int, doing: str) -> int:
    try:
        outcome = work()
    except IntermodalError as error:
        outcome = {"code": error.code, "message": error.message}
    except BrokenPipeError:
        return 1  # nobody waits any more
    except OSError as error:
        failed = from_os_error(error, doing)
        outcome = {"code": failed.code, "message": failed.message}
    except MemoryError:
        outcome = {"code": ResourceExhausted.code, "message": f"To {doing} takes more memory than a worker may use"}
    except BaseException as error:
        outcome = {"code": Internal.code, "message": f"To {doing} failed: {type(error).__name__}: {error}"}
    data = json.dumps(outcome).encode()
    while data:
        data = data[os.write(pipe, data) :]
    return 0


def _apply(task: Task, layer: int, pipe: int) -> dict[str, Any]:
    place = enter(task.mounts, task.scratch)
    drop_privileges([layer, pipe, place.root, *([place.lower] if place.lower >= 0 else [])])
    stream = LayerStream(layer, task.media_type, task.limits)
    blocks = _with_pulse(stream, pipe)
    opaque: set[bytes] = set()
    residue = None
    if task.alone:
        if not place.fresh:
            raise FailedPrecondition("A layer is applied alone into an empty directory only, and this one is not empty")
        try:
            residue = apply_layer_alone(blocks, place.root, task.limits, task.devices)
        except InvalidArgument:
            if stream.failed:
                raise
            # On its parent it may be right, since links of below lead elsewhere; or be refused there.
            residue = None
    else:
        opaque = apply_layer(blocks, place.root, place.lower, place.fresh, task.limits, task.devices)
    for _ in blocks:  # what follows the archive's end counts for the digests
        pass
    if task.sync:
        syscalls.syncfs(place.root)
    return {
        "applied": msgspec.to_builtins(stream.applied(time.thread_time(), residue)),
        "opaque": [path.decode("utf-8", "surrogateescape") for path in sorted(opaque)],
    }


def _with_pulse(blocks: LayerStream, pipe: int) -> Iterator[bytes]:
    since = 0
    for block in blocks:
        since += len(block)
        if since >= _PULSE:
            since = 0
            os.write(pipe, b"\n")
        yield block
