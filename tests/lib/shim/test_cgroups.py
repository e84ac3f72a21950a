"""A cgroup read from recorded files: version 2, version 1, and both side by side; only the hybrid form runs where this was written."""

from __future__ import annotations

import builtins
import io
import os
from pathlib import Path
from typing import Any

import pytest
from intermodal_api.cgroups import v1_pb2 as v1
from intermodal_api.cgroups import v2_pb2 as v2
from intermodal_shim import cgroup_remains, cgroups
from intermodal_shim.cgroups import Cgroup
from intermodal_shim.container import Container

PID = 4242
UNIFIED = {
    "cgroup.procs": "7\n9\n",
    "cpu.stat": "usage_usec 5000\nuser_usec 3000\nsystem_usec 2000\nnr_periods 4\nnr_throttled 1\nthrottled_usec 50\n",
    "memory.current": "1048576\n",
    "memory.max": "max\n",
    "memory.stat": "anon 4096\nfile 8192\ninactive_file 100\nnot_a_field 1\n",
    "memory.events": "low 0\nhigh 0\nmax 2\noom 1\noom_kill 1\noom_group_kill 0\n",
    "pids.current": "2\n",
    "pids.max": "100\n",
    "io.stat": "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n8:16 rbytes=5 wbytes=0 rios=1 wios=0\n",
}
SPLIT = {
    "memory": {
        "memory.usage_in_bytes": "2048\n",
        "memory.limit_in_bytes": "4096\n",
        "memory.max_usage_in_bytes": "3000\n",
        "memory.failcnt": "0\n",
        "memory.stat": "cache 10\nrss 20\npgpgin 3\ntotal_inactive_file 100\nhierarchical_memory_limit 4096\n",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
    },
    "pids": {"pids.current": "3\n", "pids.max": "max\n", "cgroup.procs": "8\n"},
    "cpu": {"cpu.stat": "nr_periods 1\nnr_throttled 0\nthrottled_time 0\n"},
    "cpuacct": {
        "cpuacct.usage": "7000\n",
        "cpuacct.stat": "user 1\nsystem 2\n",
        "cpuacct.usage_percpu": "3000 4000\n",
    },
    "freezer": {"cgroup.procs": "8\n6\n", "freezer.state": "FROZEN\n"},
    "blkio": {"blkio.throttle.io_service_bytes": "8:0 Read 10\n8:0 Write 20\n8:0 Total 30\nTotal 30\n"},
}


def write(directory: Path, files: dict[str, str]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name).write_text(text)


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """recorded(lines of /proc/PID/cgroup) -> that process's Cgroup, mounted at tmp_path."""

    def make(*lines: str) -> Cgroup:
        real = builtins.open

        def opened(path: Any, *mode: Any, **options: Any) -> Any:
            if path == f"/proc/{PID}/cgroup":
                return io.BytesIO("\n".join(lines).encode())
            return real(path, *mode, **options)

        monkeypatch.setattr(cgroups, "open", opened, raising=False)
        return Cgroup(PID, str(tmp_path))

    return make


def test_version_2(recorded: Any, tmp_path: Path) -> None:
    write(tmp_path / "a.slice/c", UNIFIED)
    write(tmp_path / "a.slice/c/below", {"cgroup.procs": "11\n"})
    cgroup = recorded("0::/a.slice/c")
    assert cgroup.is_v2
    assert cgroup.pids() == [7, 9, 11]
    assert cgroup.oom_kills() == 1
    metrics = cgroup.metrics()
    assert isinstance(metrics, v2.Metrics)
    assert (metrics.cpu.usage_usec, metrics.cpu.nr_throttled) == (5000, 1)
    assert (metrics.memory.usage, metrics.memory.anon, metrics.memory.inactive_file) == (1048576, 4096, 100)
    assert metrics.memory.usage_limit == (1 << 63) - 1
    assert (metrics.pids.current, metrics.pids.limit) == (2, 100)
    assert [(entry.minor, entry.rbytes, entry.wbytes) for entry in metrics.io.usage] == [(0, 10, 20), (16, 5, 0)]
    assert metrics.memory_events.oom_kill == 1


def test_version_2_without_some_controllers(recorded: Any, tmp_path: Path) -> None:
    """What is not counted is absent."""
    write(tmp_path / "c", {"cgroup.procs": "", "cpu.stat": "usage_usec 1\n"})
    metrics = recorded("0::/c").metrics()
    assert metrics.HasField("cpu")
    assert not any(metrics.HasField(part) for part in ("memory", "pids", "io", "memory_events", "rdma"))


@pytest.mark.parametrize("hybrid", [True, False])
def test_version_1_alone_and_beside_version_2(recorded: Any, tmp_path: Path, hybrid: bool) -> None:
    for controller, files in SPLIT.items():
        write(tmp_path / controller / "ns/c", files)
    lines = [f"{number}:{controller}:/ns/c" for number, controller in enumerate(SPLIT, 1)]
    cgroup = recorded(*lines, "9:name=systemd:/ns/c", *(["0::/elsewhere"] if hybrid else []))
    assert not cgroup.is_v2
    assert cgroup.pids() == [6, 8]
    assert cgroup.oom_kills() == 3
    metrics = cgroup.metrics()
    assert isinstance(metrics, v1.Metrics)
    assert (metrics.cpu.usage.total, list(metrics.cpu.usage.per_cpu)) == (7000, [3000, 4000])
    assert (metrics.memory.usage.usage, metrics.memory.usage.limit, metrics.memory.pg_pg_in) == (2048, 4096, 3)
    assert not metrics.memory.HasField("swap")
    assert (metrics.pids.current, metrics.pids.limit) == (3, 0)
    assert [(entry.op, entry.value) for entry in metrics.blkio.io_service_bytes_recursive][:2] == [
        ("Read", 10),
        ("Write", 20),
    ]
    cgroup.thaw()
    assert (tmp_path / "freezer/ns/c/freezer.state").read_text().startswith("THAWED")


@pytest.mark.parametrize(
    ("mine", "others", "same"),
    [
        (["0::/a"], ["0::/a"], True),
        (["0::/a"], ["0::/b"], False),
        (["1:memory:/a", "2:pids:/a", "0::/"], ["1:memory:/b", "2:pids:/b", "0::/"], False),
        (["1:memory:/a", "2:pids:/", "0::/"], ["1:memory:/b", "2:pids:/", "0::/"], True),
        (["1:memory:/", "0::/"], ["1:memory:/", "0::/"], True),
    ],
)
def test_one_that_is_somebody_elses_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mine: list[str], others: list[str], same: bool
) -> None:
    files = {"/proc/1000/cgroup": mine, "/proc/2000/cgroup": others}
    monkeypatch.setattr(
        cgroups, "open", lambda path, *mode, **_: io.BytesIO("\n".join(files[path]).encode()), raising=False
    )
    assert Cgroup(1000, str(tmp_path)).is_of(2000) is same


def test_nobody_is_killed_in_a_cgroup_that_is_the_shims_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime that makes no cgroup leaves its container in the shim's, or in one above it."""

    class Everybody:
        def pids(self) -> list[int]:
            return [1, os.getpid(), 4242]

    killed: list[int] = []
    monkeypatch.setattr("intermodal_shim.container.os.kill", lambda pid, number: killed.append(pid))
    container = object.__new__(Container)
    container.cgroup = Everybody()  # type: ignore[assignment]
    container._kill_all()
    assert killed == []
    monkeypatch.setattr(Everybody, "pids", lambda self: [4242, 4243])
    container._kill_all()
    assert killed == [4242, 4243]


def test_nothing_is_removed_with_this_process_in_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write(tmp_path / "c-1", {"cgroup.procs": f"1\n{os.getpid()}\n"})
    monkeypatch.setattr(cgroup_remains, "_CGROUPS", str(tmp_path))
    monkeypatch.setattr(cgroup_remains, "_kill_members", lambda directory: pytest.fail(f"killed in {directory}"))
    (tmp_path / "config.json").write_text('{"linux": {"cgroupsPath": "/c-1"}}')
    cgroup_remains.remove_cgroups("c-1", str(tmp_path))
    assert (tmp_path / "c-1").is_dir()


def test_controllers_that_are_mounted_together(recorded: Any, tmp_path: Path) -> None:
    write(tmp_path / "cpu/c", SPLIT["cpu"] | SPLIT["cpuacct"])
    (tmp_path / "cpuacct").symlink_to("cpu")
    cgroup = recorded("3:cpu,cpuacct:/c", "4:memory:/c")
    assert cgroup.metrics().cpu.usage.total == 7000
