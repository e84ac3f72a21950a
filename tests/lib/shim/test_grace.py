"""The wait for the kernel's cgroup lock is begun early, and moves nothing."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from intermodal_shim.cgroups import ROOT, Cgroup
from intermodal_shim.grace import Grace


def begin(root: str = ROOT, times: int = 1) -> None:
    async def begun() -> None:
        grace = Grace(root)
        for _ in range(times):
            grace.begin()
        await asyncio.get_running_loop().shutdown_default_executor()

    asyncio.run(begun())


def procs(root: Path) -> Path:
    """This process's own file below another root."""
    cgroup = Cgroup(os.getpid(), str(root))
    file = Path(cgroup.unified if cgroup.is_v2 else cgroup.directory("pids"), "cgroup.procs")
    file.parent.mkdir(parents=True)
    return file


def test_nothing_is_moved() -> None:
    before = Path("/proc/self/cgroup").read_text()
    begin(times=3)
    assert Path("/proc/self/cgroup").read_text() == before


def test_the_process_moves_itself_to_where_it_is(tmp_path: Path) -> None:
    file = procs(tmp_path)
    file.write_text(f"1\n{os.getpid()}\n")
    begin(str(tmp_path))
    assert file.read_text() == f"0\n{os.getpid()}\n"  # written at the file's beginning


def test_a_cgroup_that_is_not_its_own_is_left_alone(tmp_path: Path) -> None:
    file = procs(tmp_path)
    file.write_text(f"1\n{os.getpid()}0\n")
    begin(str(tmp_path))
    assert file.read_text().startswith("1\n")


def test_without_cgroups_nothing_fails(tmp_path: Path) -> None:
    begin(str(tmp_path))
