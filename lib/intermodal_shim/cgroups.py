"""A container's cgroup, read from the kernel's files: v1, hybrid and v2.

Serves what a shim needs: pids, counters as containerd's metrics messages, and how often the kernel killed for want of memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from google.protobuf.message import Message
from intermodal_api.cgroups import v1_pb2 as v1
from intermodal_api.cgroups import v2_pb2 as v2

__all__ = ["ROOT", "Cgroup"]

ROOT = "/sys/fs/cgroup"
_UNLIMITED = (1 << 63) - 1


class Cgroup:
    """The cgroup of the process `pid`, as it is now; `root` is where cgroups are mounted."""

    __slots__ = ("_controllers", "_root", "_unified")

    def __init__(self, pid: int, root: str = ROOT) -> None:
        self._controllers: dict[str, str] = {}
        self._root = root
        self._unified = ""
        with open(f"/proc/{pid}/cgroup", "rb") as file:
            lines = file.read().decode(errors="surrogateescape").splitlines()
        for line in lines:
            _, controllers, path = line.split(":", 2)
            if controllers:
                for controller in controllers.split(","):
                    self._controllers[controller] = f"{root}/{controller.removeprefix('name=')}{path}"
            else:
                self._unified = path

    def is_of(self, pid: int) -> bool:
        """Whether the process `pid` is in the same one, for any of the controllers that count and list processes."""
        other = Cgroup(pid, self._root)
        if self.is_v2:
            return self.unified == other.unified
        names = ("memory", "pids", "freezer")
        return any(self._controllers[name] == other.directory(name) for name in names if name in self._controllers)

    @property
    def is_v2(self) -> bool:
        """Whether the controllers are in the unified hierarchy."""
        return "memory" not in self._controllers and "pids" not in self._controllers

    @property
    def unified(self) -> str:
        """The directory in the unified hierarchy."""
        hybrid = "" if self.is_v2 else "/unified"
        return f"{self._root}{hybrid}{self._unified}"

    def directory(self, controller: str) -> str:
        """The directory that holds the controller's files."""
        return self._controllers.get(controller) or self.unified

    def pids(self) -> list[int]:
        """All processes in it and below, sorted."""
        top = self.unified if self.is_v2 else self.directory("freezer" if "freezer" in self._controllers else "pids")
        found: set[int] = set()
        for directory, _, files in os.walk(top):
            if "cgroup.procs" in files:
                found.update(int(word) for word in _read(f"{directory}/cgroup.procs").split())
        return sorted(found)

    def oom_kills(self) -> int:
        """How many processes the kernel has killed in it for want of memory; 0 where it does not say."""
        name = "memory.events" if self.is_v2 else "memory.oom_control"
        return _table(f"{self.directory('memory')}/{name}").get("oom_kill", 0)

    def watch_oom(self) -> tuple[int, bool]:
        """A descriptor that tells when `oom_kills` may have grown; True: by EPOLLPRI, else readable. Raises OSError."""
        directory = self.directory("memory")
        if self.is_v2:
            return os.open(f"{directory}/memory.events", os.O_RDONLY | os.O_CLOEXEC), True
        control = os.open(f"{directory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        try:
            event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            try:
                _write(f"{directory}/cgroup.event_control", f"{event} {control}")
            except OSError:
                os.close(event)
                raise
        finally:
            os.close(control)
        return event, False

    def thaw(self) -> None:
        """Let frozen processes go on, so that they can be killed. Raises OSError."""
        if self.is_v2:
            _write(f"{self.unified}/cgroup.freeze", "0")
        else:
            _write(f"{self.directory('freezer')}/freezer.state", "THAWED")

    def metrics(self) -> Message:
        """`io.containerd.cgroups.v1.Metrics` or v2's; what the kernel does not tell is absent."""
        return self._metrics_v2() if self.is_v2 else self._metrics_v1()

    def _metrics_v1(self) -> v1.Metrics:
        metrics = v1.Metrics()
        pids, cpuacct, cpu = (self.directory(name) for name in ("pids", "cpuacct", "cpu"))
        _set(metrics, "pids.current", _number(f"{pids}/pids.current"))
        _set(metrics, "pids.limit", _number(f"{pids}/pids.max", 0))
        _set(metrics, "cpu.usage.total", _number(f"{cpuacct}/cpuacct.usage"))
        ticks = _table(f"{cpuacct}/cpuacct.stat")
        nanoseconds = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
        for name, key in (("user", "user"), ("kernel", "system")):
            _set(metrics, f"cpu.usage.{name}", ticks[key] * nanoseconds if key in ticks else None)
        metrics.cpu.usage.per_cpu.extend(int(word) for word in _read(f"{cpuacct}/cpuacct.usage_percpu").split())
        throttled = _table(f"{cpu}/cpu.stat")
        for name, key in (("periods", "nr_periods"), ("throttled_periods", "nr_throttled"), ("throttled_time",) * 2):
            _set(metrics, f"cpu.throttling.{name}", throttled.get(key))
        self._memory_v1(metrics)
        self._blkio_v1(metrics.blkio)
        return metrics

    def _memory_v1(self, metrics: v1.Metrics) -> None:
        directory = self.directory("memory")
        fields = _numbers(v1.MemoryStat)
        for key, value in _table(f"{directory}/memory.stat").items():
            name = _V1_MEMORY_NAMES.get(key.removeprefix("total_"), key.removeprefix("total_"))
            name = f"total_{name}" if key.startswith("total_") else name
            if name in fields:
                _set(metrics, f"memory.{name}", value)
        for entry, prefix in (("usage", ""), ("swap", "memsw."), ("kernel", "kmem."), ("kernel_tcp", "kmem.tcp.")):
            for name, file in (("limit", "limit"), ("usage", "usage"), ("max", "max_usage")):
                _set(metrics, f"memory.{entry}.{name}", _number(f"{directory}/memory.{prefix}{file}_in_bytes"))
            _set(metrics, f"memory.{entry}.failcnt", _number(f"{directory}/memory.{prefix}failcnt"))
        for key, value in _table(f"{directory}/memory.oom_control").items():
            if key in v1.MemoryOomControl.DESCRIPTOR.fields_by_name:
                _set(metrics, f"memory_oom_control.{key}", value)

    def _blkio_v1(self, blkio: v1.BlkIOStat) -> None:
        directory = self.directory("blkio")
        for field, files in _V1_BLKIO.items():
            for file in files:
                lines = [line.split() for line in _read(f"{directory}/{file}").splitlines()]
                for device, operation, value in (line for line in lines if len(line) == 3):
                    major, _, minor = device.partition(":")
                    getattr(blkio, field).add(op=operation, major=int(major), minor=int(minor), value=int(value))
                if lines:
                    break

    def _metrics_v2(self) -> v2.Metrics:
        metrics = v2.Metrics()
        directory = self.unified
        _set(metrics, "pids.current", _number(f"{directory}/pids.current"))
        _set(metrics, "pids.limit", _number(f"{directory}/pids.max", 0))
        for part, file in (("cpu", "cpu.stat"), ("memory", "memory.stat"), ("memory_events", "memory.events")):
            fields = _numbers(type(getattr(metrics, part)))
            for key, value in _table(f"{directory}/{file}").items():
                if key in fields:
                    _set(metrics, f"{part}.{key}", value)
        for field, file in (
            ("usage", "memory.current"),
            ("usage_limit", "memory.max"),
            ("swap_usage", "memory.swap.current"),
            ("swap_limit", "memory.swap.max"),
        ):
            _set(metrics, f"memory.{field}", _number(f"{directory}/{file}", _UNLIMITED))
        for line in _read(f"{directory}/io.stat").splitlines():
            device, *counters = line.split()
            major, _, minor = device.partition(":")
            values = dict(pair.split("=", 1) for pair in counters)
            entry = metrics.io.usage.add(major=int(major), minor=int(minor))
            for key in ("rbytes", "wbytes", "rios", "wios"):
                if key in values:
                    setattr(entry, key, int(values[key]))
        return metrics


_V1_MEMORY_NAMES = {
    "pgpgin": "pg_pg_in",
    "pgpgout": "pg_pg_out",
    "pgfault": "pg_fault",
    "pgmajfault": "pg_maj_fault",
    "hierarchical_memsw_limit": "hierarchical_swap_limit",
}
_V1_BLKIO = {
    "io_service_bytes_recursive": (
        "blkio.bfq.io_service_bytes_recursive",
        "blkio.throttle.io_service_bytes_recursive",
        "blkio.throttle.io_service_bytes",
    ),
    "io_serviced_recursive": (
        "blkio.bfq.io_serviced_recursive",
        "blkio.throttle.io_serviced_recursive",
        "blkio.throttle.io_serviced",
    ),
    "io_queued_recursive": ("blkio.bfq.io_queued_recursive",),
    "io_service_time_recursive": ("blkio.bfq.io_service_time_recursive",),
    "io_wait_time_recursive": ("blkio.bfq.io_wait_time_recursive",),
    "io_merged_recursive": ("blkio.bfq.io_merged_recursive",),
}


def _numbers(kind: type[Message]) -> set[str]:
    """The fields that are no messages themselves."""
    return {field.name for field in kind.DESCRIPTOR.fields if field.message_type is None}


def _set(metrics: Message, path: str, value: int | None) -> None:
    """Set a nested field; None leaves it, and its parents, absent."""
    if value is None:
        return
    *parents, name = path.split(".")
    for parent in parents:
        metrics = getattr(metrics, parent)
    setattr(metrics, name, value)
    if not value and parents:
        metrics.SetInParent()


def _read(path: str) -> str:
    """The file's text, "" where there is none or it cannot be read."""
    try:
        with open(path, "rb", buffering=0) as file:
            return (file.read() or b"").decode(errors="replace")
    except OSError:
        return ""


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _number(path: str, unlimited: int | None = None) -> int | None:
    word = _read(path).strip()
    if word == "max":
        return unlimited
    return int(word) if word.isdigit() else None


def _table(path: str) -> dict[str, int]:
    """Lines of `name number`."""
    return dict(_pairs(path))


def _pairs(path: str) -> Iterator[tuple[str, int]]:
    for line in _read(path).splitlines():
        name, _, value = line.partition(" ")
        if value.isdigit():
            yield name, int(value)
