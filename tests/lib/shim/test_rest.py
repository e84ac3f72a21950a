"""A shim at rest has little memory of its own, and does all that it did before."""

import asyncio
import os
import re
import select
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from intermodal_core.contracts.runtimes import Stdio, TaskRef
from intermodal_core.errors import NotFound, Unavailable

MakeBundle = Callable[..., Path]


def private(pid: int) -> int:
    """KiB that the process shares with no other."""
    found = re.findall(r"^Private_\w+:\s+(\d+) kB$", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    return sum(map(int, found))


def serving(shim: int) -> int:
    """The process that serves before the first rest."""
    (child,) = map(int, Path(f"/proc/{shim}/task/{shim}/children").read_text().split())
    return child


def test_it_has_little_memory(make_bundle: MakeBundle, with_daemon: Any) -> None:
    bundles = [make_bundle(f"small{number}", "sleep", "1000") for number in range(3)]

    async def body(daemon: Any) -> None:
        tasks = [await daemon.create(bundle) for bundle in bundles]
        for task in tasks:
            await daemon.runtime.start(task)
        before = private(serving(daemon.runtime.shim_pid(tasks[1])))
        after = private(await daemon.rest(tasks[1]))
        for task in tasks:
            await daemon.end(task)
        assert after < 1200
        assert 2 * after < before

    with_daemon(body, all_events=False)


def test_input_output_and_the_wait_that_was_under_way(
    make_bundle: MakeBundle, with_daemon: Any, make_process: Any, tmp_path: Path
) -> None:
    bundle = make_bundle("talks", "sh", "-c", "while read x; do echo got $x; done; exit 9")
    stdin, out = tmp_path / "stdin", tmp_path / "out"
    for fifo in (stdin, out):
        os.mkfifo(fifo)
    reader = os.open(out, os.O_RDONLY | os.O_NONBLOCK)
    poll = select.poll()
    poll.register(reader, select.POLLIN)

    async def body(daemon: Any) -> None:
        runtime = daemon.runtime
        task = await daemon.create(bundle, Stdio(stdin=str(stdin), stdout=str(out), stderr=f"file://{tmp_path}/err"))
        waiting = asyncio.ensure_future(runtime.wait(task))
        await runtime.start(task)
        await runtime.exec(task, "e", make_process("sleep", "1000"), Stdio())
        await runtime.start(task, "e")
        also = asyncio.ensure_future(runtime.wait(task, "e"))
        await daemon.rest(task)

        stdin.write_text("a line\n")
        assert await asyncio.to_thread(poll.poll, 5000)
        assert os.read(reader, 100) == b"got a line\n"
        await runtime.kill(task, signal.SIGTERM, "e")
        assert (await also).status == 128 + signal.SIGTERM
        await runtime.delete(task, "e")
        await runtime.exec(task, "again", make_process("sh", "-c", "exit 4"), Stdio(stderr=f"file://{tmp_path}/err"))
        await runtime.start(task, "again")
        assert (await runtime.wait(task, "again")).status == 4
        await runtime.close_stdin(task)
        assert (await waiting).status == 9
        await runtime.delete(task)

    try:
        with_daemon(body)
    finally:
        os.close(reader)


def test_an_end_at_rest_is_told(make_bundle: MakeBundle, with_daemon: Any) -> None:
    """Nothing but the end wakes it, and then it goes."""
    bundle = make_bundle("ends", "sleep", "1000")

    async def body(daemon: Any) -> None:
        task = await daemon.create(bundle)
        pid = await daemon.runtime.start(task)
        shim = await daemon.rest(task)
        ended = os.pidfd_open(shim)
        os.kill(pid, signal.SIGKILL)
        assert (await daemon.event("/tasks/exit")).exit_status == 137
        assert (await daemon.runtime.delete(task)).status == 137
        try:
            assert await asyncio.to_thread(select.select, [ended], [], [], 5) != ([], [], [])
        finally:
            os.close(ended)

    with_daemon(body)


def test_the_next_daemon_finds_it(make_bundle: MakeBundle, with_daemon: Any) -> None:
    bundle = make_bundle("sleeps", "sleep", "1000")
    pids: list[int] = []

    async def first(daemon: Any) -> None:
        task = await daemon.create(bundle)
        pids.append(await daemon.runtime.start(task))
        await daemon.rest(task)

    async def second(daemon: Any) -> None:
        task = TaskRef("imtest", "sleeps")
        assert await daemon.runtime.connect(task, str(bundle)) == pids[0]
        await daemon.end(task)

    with_daemon(first)
    with_daemon(second)


def test_out_of_memory_at_rest(make_bundle: MakeBundle, with_daemon: Any, tmp_path: Path) -> None:
    fifo = tmp_path / "go"
    os.mkfifo(fifo)
    script = "read x; x=a; while true; do x=$x$x; done"
    limits = {"resources": {"memory": {"limit": 16 << 20, "swap": 16 << 20}}}
    bundle = make_bundle("eats", "sh", "-c", script, linux=limits)

    async def body(daemon: Any) -> None:
        task = await daemon.create(bundle, Stdio(stdin=str(fifo)))
        await daemon.runtime.start(task)
        await daemon.rest(task)
        fifo.write_text("go\n")
        assert (await daemon.event("/tasks/oom")).container_id == "eats"
        assert (await daemon.runtime.wait(task)).status == 137
        await daemon.runtime.delete(task)

    with_daemon(body, all_events=False)


@pytest.mark.parametrize("started", [False, True])
def test_without_the_process_that_serves_there_is_no_shim(
    started: bool, make_bundle: MakeBundle, with_daemon: Any
) -> None:
    bundle = make_bundle("halves", "sleep", "1000")

    async def body(daemon: Any) -> None:
        task = await daemon.create(bundle)
        if started:
            await daemon.runtime.start(task)
        shim = daemon.runtime.shim_pid(task)
        ended = os.pidfd_open(shim)
        os.kill(serving(shim), signal.SIGKILL)
        try:
            assert await asyncio.to_thread(select.select, [ended], [], [], 5) != ([], [], [])
        finally:
            os.close(ended)
        with pytest.raises(Unavailable):
            await daemon.runtime.state(task)
        await daemon.runtime.cleanup(task, str(bundle))
        with pytest.raises(NotFound):
            await daemon.runtime.state(task)

    with_daemon(body)
