"""Daemons come and go; shims die; nothing is lost, nothing is left."""

import asyncio
import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from intermodal_core.contracts.runtimes import Stdio, TaskRef
from intermodal_core.errors import AlreadyExists, NotFound, Unavailable

MakeBundle = Callable[..., Path]


def test_the_next_daemon_takes_a_task_up(
    make_bundle: MakeBundle, with_daemon: Any, make_process: Any, tmp_path: Path
) -> None:
    bundle = make_bundle("taken", "sh", "-c", "read x; echo $x")
    fifo, out = tmp_path / "stdin", tmp_path / "out"
    os.mkfifo(fifo)
    pids: list[int] = []

    async def first(daemon: Any) -> None:
        task = await daemon.create(bundle, Stdio(stdin=str(fifo), stdout=f"file://{out}"))
        pids.append(await daemon.runtime.start(task))

    async def second(daemon: Any) -> None:
        task = TaskRef("imtest", "taken")
        assert await daemon.runtime.connect(task, str(bundle)) == pids[0]
        state = await daemon.runtime.state(task)
        assert (state.pid, state.status, state.stdio.stdin) == (pids[0], "running", str(fifo))
        await daemon.runtime.exec(task, "e", make_process("true"), Stdio())
        await daemon.runtime.start(task, "e")
        fifo.write_text("hello\n")
        assert (await daemon.runtime.wait(task)).status == 0
        await daemon.runtime.delete(task)
        assert out.read_text() == "hello\n"

    with_daemon(first)
    with_daemon(second)


def test_an_exit_without_a_daemon_is_delivered_to_the_next(
    make_bundle: MakeBundle, with_daemon: Any, tmp_path: Path
) -> None:
    bundle = make_bundle("alone", "sh", "-c", "read x; exit 11")
    fifo = tmp_path / "stdin"
    os.mkfifo(fifo)

    async def first(daemon: Any) -> None:
        task = await daemon.create(bundle, Stdio(stdin=str(fifo)))
        await daemon.runtime.start(task)
        fifo.write_text("go\n")
        assert (await daemon.runtime.wait(task)).status == 11

    async def second(daemon: Any) -> None:
        task = TaskRef("imtest", "alone")
        told = await daemon.event("/tasks/exit")
        assert told.exit_status == 11
        await daemon.runtime.connect(task, str(bundle))
        assert (await daemon.runtime.state(task)).exit_status == 11
        assert (await daemon.runtime.delete(task)).status == 11

    with_daemon(first, listening=False)
    with_daemon(second)


def test_events_are_sent_again_until_they_are_answered(make_bundle: MakeBundle, with_daemon: Any) -> None:
    bundle = make_bundle("again", "true")

    async def body(daemon: Any) -> None:
        daemon.refuse = 3
        task = await daemon.create(bundle)
        await daemon.runtime.start(task)
        told = await daemon.event("/tasks/exit")
        assert told.exit_status == 0
        assert daemon.refuse == 0
        await daemon.runtime.delete(task)
        await daemon.event("/tasks/delete")
        assert [name for name, _ in daemon.events] == [
            f"/tasks/{step}" for step in ("create", "start", "exit", "delete")
        ]

    with_daemon(body)


def test_our_own_daemon_is_told_of_no_exit_and_the_shim_goes_with_the_delete(
    make_bundle: MakeBundle, with_daemon: Any
) -> None:
    """Nobody listens for events, and the shim ends all the same: what it would tell is known."""
    bundle = make_bundle("quiet", "sh", "-c", "exit 3")

    async def body(daemon: Any) -> None:
        task = await daemon.create(bundle)
        shim = daemon.runtime.shim_pid(task)
        await daemon.runtime.start(task)
        assert (await daemon.runtime.wait(task)).status == 3
        assert (await daemon.runtime.delete(task)).status == 3
        ended = os.pidfd_open(shim)
        try:
            assert await asyncio.to_thread(has_ended, ended), "the shim lives on"
        finally:
            os.close(ended)

    with_daemon(body, listening=False, all_events=False)


def test_a_name_is_free_at_once_after_delete(make_bundle: MakeBundle, with_daemon: Any) -> None:
    """Delete answers while the runtime still closes its books; the next task of that name waits for that."""
    bundle = make_bundle("same", "true")

    async def body(daemon: Any) -> None:
        for _ in range(5):
            task = await daemon.create(bundle)
            await daemon.runtime.start(task)
            await daemon.runtime.wait(task)
            await daemon.runtime.delete(task)

    with_daemon(body, all_events=False)


def test_all_events_for_a_daemon_that_wants_them(make_bundle: MakeBundle, with_daemon: Any, make_process: Any) -> None:
    bundle = make_bundle("all", "sleep", "1000")

    async def body(daemon: Any) -> None:
        runtime = daemon.runtime
        task = await daemon.create(bundle)
        await runtime.start(task)
        await runtime.exec(task, "e", make_process("true"), Stdio())
        await runtime.start(task, "e")
        await runtime.wait(task, "e")
        await runtime.delete(task, "e")
        await runtime.pause(task)
        await runtime.resume(task)
        await daemon.end(task)
        await daemon.event("/tasks/delete", 2)
        steps = [
            "create",
            "start",
            "exec-added",
            "exec-started",
            "exit",
            "delete",
            "paused",
            "resumed",
            "exit",
            "delete",
        ]
        assert [name for name, _ in daemon.events] == [f"/tasks/{step}" for step in steps]

    with_daemon(body)


@pytest.mark.parametrize("state", ["created", "running", "paused"])
def test_a_dead_shim_is_cleaned_up_after(make_bundle: MakeBundle, with_daemon: Any, state: str) -> None:
    bundle = make_bundle("dead", "sleep", "1000")

    async def body(daemon: Any) -> None:
        runtime = daemon.runtime
        task = await daemon.create(bundle)
        if state != "created":
            await runtime.start(task)
        if state == "paused":
            await runtime.pause(task)
        pid = (await runtime.state(task)).pid
        waiting = asyncio.ensure_future(runtime.wait(task))
        await runtime.state(task)  # now the wait has been sent
        os.kill(runtime.shim_pid(task), signal.SIGKILL)
        with pytest.raises(Unavailable):
            await waiting
        with pytest.raises(Unavailable, match="gone"):
            await runtime.state(task)
        with pytest.raises(NotFound):
            await runtime.connect(task, str(bundle))
        ended = await runtime.cleanup(task, str(bundle))
        assert (ended.pid, ended.status) == (pid, 137)
        assert abs(ended.exited_at / 1e9 - time.time()) < 60
        assert not lives(pid)
        assert not list((daemon.state / "runc/imtest").iterdir())
        await runtime.cleanup(task, str(bundle))
        with pytest.raises(NotFound):
            await runtime.state(task)

    with_daemon(body)


def test_a_hanging_shim_is_cleaned_up_after(make_bundle: MakeBundle, with_daemon: Any) -> None:
    bundle = make_bundle("hangs", "sleep", "1000")

    async def body(daemon: Any) -> None:
        task = await daemon.create(bundle)
        await daemon.runtime.start(task)
        os.kill(daemon.runtime.shim_pid(task), signal.SIGSTOP)
        await daemon.runtime.cleanup(task, str(bundle))

    with_daemon(body)


def test_a_shim_that_dies_while_it_creates(make_bundle: MakeBundle, with_daemon: Any, tmp_path: Path) -> None:
    bundle = make_bundle("halfway", "sleep", "1000")
    fake = tmp_path / "runc-that-kills"
    fake.write_text(
        '#!/bin/sh\ncase "$*" in *" create "*) runc "$@"; kill -KILL $PPID; exit 0;; esac\nexec runc "$@"\n'
    )
    fake.chmod(0o755)

    async def body(daemon: Any) -> None:
        with pytest.raises(Unavailable):
            await daemon.create(bundle)
        assert not list((daemon.state / "s").iterdir())
        assert not list((daemon.state / "runc/imtest").iterdir())

    with_daemon(body, binary=str(fake))


def test_the_shim_goes_with_its_container(make_bundle: MakeBundle, with_daemon: Any) -> None:
    bundle = make_bundle("goes", "true")

    async def body(daemon: Any) -> None:
        task = await daemon.create(bundle)
        pid = daemon.runtime.shim_pid(task)
        pidfd = os.pidfd_open(pid)
        assert Path(f"/proc/{pid}/comm").read_text() == "shim\n"
        await daemon.runtime.start(task)
        await daemon.runtime.wait(task)
        await daemon.runtime.delete(task)
        ended = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(pidfd, ended.set_result, None)
        await asyncio.wait_for(ended, 5)
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)
        assert not (bundle / "shim.log").exists()

    with_daemon(body)


def test_poststop_hooks_run_at_delete(make_bundle: MakeBundle, with_daemon: Any, tmp_path: Path) -> None:
    mark = tmp_path / "stopped"
    hooks = {"poststop": [{"path": "/bin/sh", "args": ["sh", "-c", f"echo x > {mark}"]}]}
    bundle = make_bundle("hooks", "true", hooks=hooks)

    async def body(daemon: Any) -> None:
        task = await daemon.create(bundle)
        await daemon.runtime.start(task)
        await daemon.runtime.wait(task)
        await daemon.event("/tasks/exit")
        assert (await daemon.runtime.state(task)).status == "stopped"
        assert not mark.exists()
        await daemon.runtime.delete(task)
        assert mark.exists()

    with_daemon(body)


def test_no_descriptor_stays_in_a_shim(make_bundle: MakeBundle, with_daemon: Any, make_process: Any) -> None:
    bundle = make_bundle("fds", "sleep", "1000")

    async def body(daemon: Any) -> None:
        runtime = daemon.runtime
        task = await daemon.create(bundle)
        await runtime.start(task)
        shim = await daemon.rest(task)

        async def round_trip(number: int) -> None:
            stdio = Stdio(stdin="attach://", stdout="attach://", stderr=f"file://{bundle}/err")
            await runtime.exec(task, f"e{number}", make_process("sh", "-c", "echo x; echo y >&2"), stdio)
            read, write = os.pipe()
            null = os.open("/dev/null", os.O_RDONLY)
            await runtime.start(task, f"e{number}")
            await runtime.attach(task, (null, write, -1), f"e{number}", hold=True)
            for fd in (write, null):
                os.close(fd)
            await runtime.wait(task, f"e{number}")
            await runtime.delete(task, f"e{number}")
            os.close(read)

        await round_trip(0)
        before = len(os.listdir(f"/proc/{shim}/fd"))
        for number in range(1, 20):
            await round_trip(number)
        await runtime.state(task)
        assert len(os.listdir(f"/proc/{shim}/fd")) <= before
        assert len(Path(f"/proc/{shim}/task/{shim}/children").read_text().split()) == 1
        await daemon.end(task)

    with_daemon(body, all_events=False)


def has_ended(pidfd: int) -> bool:
    """Whether the process ends within 5 s."""
    return bool(select.select([pidfd], [], [], 5)[0])


def lives(pid: int) -> bool:
    """Whether there is such a process, and not only its end, which its new parent has yet to hear of."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_create_that_is_given_up_leaves_nothing(make_bundle: MakeBundle, with_daemon: Any, tmp_path: Path) -> None:
    bundle = make_bundle("given-up", "sleep", "1000")
    fake = tmp_path / "runc-that-hangs"
    fake.write_text('#!/bin/sh\ncase "$*" in *" create "*) runc "$@"; exec sleep 1000;; esac\nexec runc "$@"\n')
    fake.chmod(0o755)

    async def body(daemon: Any) -> None:
        creating = asyncio.ensure_future(daemon.create(bundle))
        pid_file = bundle / "init.pid"
        while not pid_file.exists():
            await asyncio.wait([creating], timeout=0.01)
        with pytest.raises(AlreadyExists):
            await daemon.create(bundle)
        creating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await creating
        assert not lives(int(pid_file.read_text()))
        assert not list((daemon.state / "s").iterdir())
        assert not list((daemon.state / "runc/imtest").iterdir())

    with_daemon(body, binary=str(fake))


def test_a_shim_that_outlived_a_daemon_ends_after_delete(make_bundle: MakeBundle, with_daemon: Any) -> None:
    """Its container ended while there was no daemon, and nobody ever takes an event."""
    bundle = make_bundle("outlives", "sleep", "1000")
    pids: list[int] = []
    shims: list[int] = []

    async def first(daemon: Any) -> None:
        task = await daemon.create(bundle)
        pids.append(await daemon.runtime.start(task))
        shims.append(os.pidfd_open(daemon.runtime.shim_pid(task)))

    async def second(daemon: Any) -> None:
        task = TaskRef("imtest", "outlives")
        await daemon.runtime.connect(task, str(bundle))
        assert (await daemon.runtime.wait(task)).status == 137
        await daemon.runtime.delete(task)

    with_daemon(first, listening=False, all_events=False)
    os.kill(pids[0], signal.SIGKILL)
    with_daemon(second, listening=False, all_events=False)
    try:
        assert has_ended(shims[0]), "the shim lives on"
    finally:
        os.close(shims[0])


def test_a_shim_that_no_record_tells_of_is_found(make_bundle: MakeBundle, with_daemon: Any) -> None:
    """The daemon was killed between the fork and the record of it."""
    bundle = make_bundle("unwritten", "sleep", "1000")
    shims: list[int] = []

    async def first(daemon: Any) -> None:
        task = await daemon.create(bundle)
        shims.append(os.pidfd_open(daemon.runtime.shim_pid(task)))

    async def second(daemon: Any) -> None:
        await daemon.runtime.cleanup(TaskRef("imtest", "unwritten"), str(bundle))

    with_daemon(first)
    (bundle / "shim.json").unlink()
    with_daemon(second)
    try:
        assert has_ended(shims[0]), "the shim lives on"
    finally:
        os.close(shims[0])
