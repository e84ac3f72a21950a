"""Has the kernel ready when a runtime moves a process into a cgroup.

The kernel's lock for that is taken in two steps: whoever finds it unused waits until every processor has noticed (an RCU grace
period, some 10 ms); whoever comes meanwhile, or within some milliseconds after, waits no longer than the first. A runtime
takes it halfway through `create` and `exec`. Taken once at their beginning, by a move that moves nothing, the wait goes
on beside what the runtime does until then, and is over sooner.
"""

from __future__ import annotations

import asyncio
import os

from intermodal_shim.cgroups import ROOT, Cgroup

__all__ = ["Grace"]


class Grace:
    """For one process, whichever cgroup it is in; `root` is where cgroups are mounted. Used on an asyncio loop; a thread waits."""

    def __init__(self, root: str = ROOT) -> None:
        self._root = root
        self._under_way = False
        self._file = ""

    def begin(self) -> None:
        """A process will soon be moved. Returns at once, and never fails: without it the runtime waits for itself."""
        if not self._under_way:
            self._under_way = True
            asyncio.get_running_loop().run_in_executor(None, self._take)

    def _take(self) -> None:
        try:
            cgroup = Cgroup(os.getpid(), self._root)
            file = f"{cgroup.unified if cgroup.is_v2 else cgroup.directory('pids')}/cgroup.procs"
            if file != self._file:
                # Where what is mounted is not what our paths begin at, the file may be another cgroup's.
                with open(file, encoding="ascii") as members:
                    if str(os.getpid()) not in members.read().split():
                        return
                self._file = file
            fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, b"0")  # the writer itself, which is there already
            finally:
                os.close(fd)
        except OSError:
            pass  # no cgroups that we may write to
        finally:
            self._under_way = False
