"""A process that a command runs: its descriptors, what the client sends meanwhile, its end."""

from __future__ import annotations

import asyncio
from typing import Any

from intermodal_core.contracts.managers.tasks import Composite, RunningProcess
from intermodal_core.errors import InvalidArgument, NotFound

from intermodal_control.server import Call, Line

__all__ = ["follow", "stdio"]


def stdio(call: Call) -> tuple[int, int, int] | None:
    """The call's descriptors as a process takes them: none is detached, two are stdout and stderr, three all."""
    match call.descriptors:
        case []:
            return None
        case [stdout, stderr]:
            return -1, stdout, stderr
        case [stdin, stdout, stderr]:
            return stdin, stdout, stderr
    raise InvalidArgument("a process in the foreground takes stdout and stderr, or stdin, stdout and stderr")


async def follow(call: Call, process: RunningProcess, containers: Composite, timings: bool = False) -> dict[str, Any]:
    """Tell the client that the process runs; in the foreground also pass on what it sends, and answer with the end.

    From here on the process outlives the call: a client that goes leaves it running.
    """
    call.cancel = False
    answer = {"container": process.container, "exec_id": process.exec_id, "pid": process.pid}
    phases = {"timings": containers.timings(call.scope, process.container)} if timings else {}
    if not call.descriptors:
        return answer | phases
    ending = asyncio.ensure_future(process.wait())
    passing = asyncio.create_task(_pass_on(call, process))
    try:
        await call.event({"started": answer | phases})
        await asyncio.wait({ending, passing}, return_when=asyncio.FIRST_COMPLETED)
        if passing.done():
            passing.result()
            if not ending.done():
                return answer  # nobody is there to read it
        exit = await ending
        return answer | {"status": exit.status, "exited_at": exit.exited_at}
    finally:
        for task in (ending, passing):
            task.cancel()
        await asyncio.gather(ending, passing, return_exceptions=True)


async def _pass_on(call: Call, process: RunningProcess) -> None:
    """Until the client goes; a process that has just ended takes nothing and that is no error."""
    while (line := await call.lines.get()) is not None:
        try:
            await _apply(line, process)
        except NotFound:
            continue


async def _apply(line: Line, process: RunningProcess) -> None:
    if line.signal is not None:
        await process.kill(line.signal)
    if line.resize is not None:
        await process.resize(*line.resize)
    if line.close_stdin:
        await process.close_stdin()
