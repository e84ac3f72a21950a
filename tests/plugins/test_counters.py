"""Counters in one form: from both of containerd's messages, and with nothing that nobody counted."""

from __future__ import annotations

import pytest
from google.protobuf.message import Message
from intermodal_api.cgroups import v1_pb2 as v1
from intermodal_api.cgroups import v2_pb2 as v2
from intermodal_core.contracts.managers.lifecycle import Counters
from intermodal_core.contracts.runtimes import Stats
from intermodal_core.errors import Internal
from intermodal_tasks.counters import normalised


def counters(message: Message, source: str = "cgroup") -> Counters:
    stats = Stats(message.DESCRIPTOR.full_name, message.SerializeToString(), source)
    return normalised("c", "r", 7, stats)


def test_v1_and_v2_say_the_same() -> None:
    first = v1.Metrics()
    first.cpu.usage.total = 5_000_000
    first.memory.usage.usage, first.memory.usage.limit, first.memory.total_inactive_file = 1000, 4000, 300
    first.pids.current, first.pids.limit = 3, 9
    first.blkio.io_service_bytes_recursive.add(op="Read", value=10)
    first.blkio.io_service_bytes_recursive.add(op="Read", value=5)
    first.blkio.io_service_bytes_recursive.add(op="Write", value=20)
    first.memory_oom_control.oom_kill = 2
    second = v2.Metrics()
    second.cpu.usage_usec = 5_000
    second.memory.usage, second.memory.usage_limit, second.memory.inactive_file = 1000, 4000, 300
    second.pids.current, second.pids.limit = 3, 9
    second.io.usage.add(rbytes=15, wbytes=20)
    second.memory_events.oom_kill = 2
    expected = Counters("c", "r", "cgroup", 7, 5_000_000, 700, 4000, 3, 9, 15, 20, 2)
    assert counters(first) == counters(second) == expected


def test_what_is_not_there_is_not_zero() -> None:
    for empty in (v1.Metrics(), v2.Metrics()):
        assert counters(empty, "shim") == Counters("c", "r", "shim", 7)
    zero = v1.Metrics()
    zero.memory.usage.SetInParent()
    zero.cpu.usage.SetInParent()
    assert (counters(zero).memory, counters(zero).cpu, counters(zero).pids) == (0, 0, None)


def test_no_limit_is_none() -> None:
    one, two = v1.Metrics(), v2.Metrics()
    one.memory.usage.limit = 9223372036854771712
    two.memory.usage_limit = (1 << 64) - 1
    for message in (one, two):
        message.pids.limit = 0
        assert (counters(message).memory_limit, counters(message).pids_limit) == (None, None)


@pytest.mark.parametrize("stats", [Stats("my.Counters", b""), Stats("io.containerd.cgroups.v1.Metrics", b"\xff")])
def test_what_is_no_message(stats: Stats) -> None:
    with pytest.raises(Internal):
        normalised("c", "r", 7, stats)
