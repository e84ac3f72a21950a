"""Counters in one form, from either of containerd's metrics messages."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError
from intermodal_api.cgroups import v1_pb2 as v1
from intermodal_api.cgroups import v2_pb2 as v2
from intermodal_core.contracts.managers.lifecycle import Counters
from intermodal_core.contracts.runtimes import Stats
from intermodal_core.errors import Internal

__all__ = ["normalised"]

#: Where a kernel's limit is as good as none.
_UNLIMITED = 1 << 60


def normalised(id: str, runtime: str, timestamp: int, stats: Stats) -> Counters:
    """What is in the message, and nothing else: a message that is not there is not a zero. Raises Internal for another type."""
    known = {"io.containerd.cgroups.v1.Metrics": _v1, "io.containerd.cgroups.v2.Metrics": _v2}
    read = known.get(stats.type_url.rpartition("/")[2])
    if read is None:
        raise Internal(f"the runtime {runtime} counts for {id} as {stats.type_url}, which is not known here")
    try:
        return Counters(id, runtime, stats.source, timestamp, **read(stats.data))
    except DecodeError as error:
        raise Internal(f"the counters of {id} are no {stats.type_url}: {error}") from error


def _v1(data: bytes) -> dict[str, int | None]:
    metrics = v1.Metrics.FromString(data)
    memory = metrics.memory if metrics.HasField("memory") and metrics.memory.HasField("usage") else None
    blkio = metrics.blkio.io_service_bytes_recursive
    return {
        "cpu": metrics.cpu.usage.total if metrics.HasField("cpu") and metrics.cpu.HasField("usage") else None,
        "memory": max(0, memory.usage.usage - memory.total_inactive_file) if memory else None,
        "memory_limit": _limit(memory.usage.limit) if memory else None,
        "pids": metrics.pids.current if metrics.HasField("pids") else None,
        "pids_limit": _limit(metrics.pids.limit) if metrics.HasField("pids") else None,
        "read_bytes": sum(entry.value for entry in blkio if entry.op == "Read") if blkio else None,
        "written_bytes": sum(entry.value for entry in blkio if entry.op == "Write") if blkio else None,
        "oom_kills": metrics.memory_oom_control.oom_kill if metrics.HasField("memory_oom_control") else None,
    }


def _v2(data: bytes) -> dict[str, int | None]:
    metrics: Any = v2.Metrics.FromString(data)
    memory = metrics.memory if metrics.HasField("memory") else None
    io = metrics.io.usage
    return {
        "cpu": metrics.cpu.usage_usec * 1000 if metrics.HasField("cpu") else None,
        "memory": max(0, memory.usage - memory.inactive_file) if memory else None,
        "memory_limit": _limit(memory.usage_limit) if memory else None,
        "pids": metrics.pids.current if metrics.HasField("pids") else None,
        "pids_limit": _limit(metrics.pids.limit) if metrics.HasField("pids") else None,
        "read_bytes": sum(entry.rbytes for entry in io) if io else None,
        "written_bytes": sum(entry.wbytes for entry in io) if io else None,
        "oom_kills": metrics.memory_events.oom_kill if metrics.HasField("memory_events") else None,
    }


def _limit(value: int) -> int | None:
    return value if 0 < value < _UNLIMITED else None
