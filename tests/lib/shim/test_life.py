"""The life of a task under the shim, with the real runc."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from intermodal_api.cgroups.v1_pb2 import Metrics
from intermodal_core.contracts.runtimes import Runtime, Stdio, TaskRef
from intermodal_core.errors import AlreadyExists, FailedPrecondition, IntermodalError, InvalidArgument, NotFound

MakeBundle = Callable[..., Path]


def test_create_start_wait_delete(make_bundle: MakeBundle, with_daemon: Any, tmp_path: Path) -> None:
    bundle = make_bundle("one", "sh", "-c", "echo out; echo err >&2; exit 7")
    out = tmp_path / "out.txt"

    async def body(daemon: Any) -> None:
        runtime = daemon.runtime
        assert isinstance(runtime, Runtime)
        task = await daemon.create(bundle, Stdio(stdout=f"file://{out}", stderr=f"file://{out}"))
        state = await runtime.state(task)
        assert (state.status, state.bundle) == ("created", str(bundle))
        assert state.pid > 1
        assert await runtime.start(task) == state.pid
        ended = await runtime.wait(task)
        assert ended.status == 7
        told = await daemon.event("/tasks/exit")
        assert (told.container_id, told.id, told.pid, told.exit_status) == ("one", "one", state.pid, 7)
        assert told.exited_at.ToNanoseconds() == ended.exited_at
        assert (await runtime.state(task)).status == "stopped"
        deleted = await runtime.delete(task)
        assert (deleted.pid, deleted.status, deleted.exited_at) == (state.pid, 7, ended.exited_at)
        assert sorted(out.read_text().split()) == ["err", "out"]
        with pytest.raises(NotFound):
            await runtime.state(task)

    with_daemon(body)


def test_signals(make_bundle: MakeBundle, with_daemon: Any, tmp_path: Path) -> None:
    bundle = make_bundle("signals", "sh", "-c", "trap 'exit 5' TERM; echo set; while :; do sleep 0.05; done")
    out = tmp_path / "out"

    async def body(daemon: Any) -> None:
        task = await daemon.create(bundle, Stdio(stdout=f"file://{out}"))
        await daemon.runtime.start(task)
        with pytest.raises(InvalidArgument):
            await daemon.runtime.kill(task, 99)
        while not out.read_bytes():  # noqa: ASYNC110  # until then it may not even be the shell
            await asyncio.sleep(0.01)
        await daemon.runtime.kill(task, signal.SIGTERM)
        assert (await daemon.runtime.wait(task)).status == 5
        with pytest.raises(NotFound):
            await daemon.runtime.kill(task, signal.SIGTERM)
        await daemon.runtime.delete(task)

    with_daemon(body)


@pytest.mark.parametrize("everybody", [False, True])
def test_kill(make_bundle: MakeBundle, with_daemon: Any, everybody: bool) -> None:
    bundle = make_bundle("kill", "sleep", "1000")

    async def body(daemon: Any) -> None:
        task = await daemon.create(bundle)
        await daemon.runtime.start(task)
        with pytest.raises(FailedPrecondition, match="still runs"):
            await daemon.runtime.delete(task)
        await daemon.runtime.kill(task, signal.SIGKILL, all=everybody)
        assert (await daemon.runtime.wait(task)).status == 128 + signal.SIGKILL
        await daemon.runtime.delete(task)

    with_daemon(body)


def test_a_created_task_can_be_deleted(make_bundle: MakeBundle, with_daemon: Any) -> None:
    bundle = make_bundle("created", "true")

    async def body(daemon: Any) -> None:
        task = await daemon.create(bundle)
        assert (await daemon.runtime.delete(task)).status == 137

    with_daemon(body)


def test_the_same_id_twice(make_bundle: MakeBundle, with_daemon: Any) -> None:
    bundle = make_bundle("twice", "sleep", "1000")

    async def body(daemon: Any) -> None:
        task = await daemon.create(bundle)
        with pytest.raises(AlreadyExists):
            await daemon.create(bundle)
        await daemon.runtime.start(task)
        with pytest.raises(FailedPrecondition):
            await daemon.runtime.start(task)
        await daemon.end(task)

    with_daemon(body)


def test_exec(make_bundle: MakeBundle, with_daemon: Any, make_process: Any, tmp_path: Path) -> None:
    bundle = make_bundle("exec", "sleep", "1000")
    out = tmp_path / "exec.txt"

    async def body(daemon: Any) -> None:
        runtime = daemon.runtime
        task = await daemon.create(bundle)
        await runtime.start(task)
        await runtime.exec(task, "e1", make_process("sh", "-c", "echo hello; exit 3"), Stdio(stdout=f"file://{out}"))
        with pytest.raises(AlreadyExists):
            await runtime.exec(task, "e1", make_process("true"), Stdio())
        with pytest.raises(InvalidArgument):
            await runtime.exec(task, "../e", make_process("true"), Stdio())
        assert (await runtime.state(task, "e1")).status == "created"
        pid = await runtime.start(task, "e1")
        assert (await runtime.wait(task, "e1")).status == 3
        told = await daemon.event("/tasks/exit")
        assert (told.container_id, told.id, told.pid, told.exit_status) == ("exec", "e1", pid, 3)
        assert (await runtime.delete(task, "e1")).status == 3
        assert out.read_text() == "hello\n"
        with pytest.raises(NotFound):
            await runtime.state(task, "e1")
        await runtime.exec(task, "e2", make_process("no-such-binary"), Stdio())
        with pytest.raises(NotFound, match=r"runc exec.*no-such-binary"):
            await runtime.start(task, "e2")
        assert (await runtime.wait(task, "e2")).status == 127
        await runtime.delete(task, "e2")
        assert not list(bundle.glob("exec-*"))
        await daemon.end(task)
        await daemon.event("/tasks/exit", 2)
        assert [event.id for name, event in daemon.events if name == "/tasks/exit"] == ["e1", "exec"]

    with_daemon(body)


@pytest.mark.parametrize("pid_namespace", [True, False])
def test_all_exec_exits_precede_that_of_init(
    make_bundle: MakeBundle, with_daemon: Any, make_process: Any, pid_namespace: bool
) -> None:
    bundle = make_bundle("order", "sleep", "1000", pid_namespace=pid_namespace)

    async def body(daemon: Any) -> None:
        runtime = daemon.runtime
        task = await daemon.create(bundle)
        await runtime.start(task)
        for number in range(5):
            await runtime.exec(task, f"e{number}", make_process("sleep", "1000"), Stdio())
        pids = await asyncio.gather(*(runtime.start(task, f"e{number}") for number in range(5)))
        assert set(pids) <= set(await runtime.pids(task))
        await runtime.kill(task, signal.SIGKILL)
        await daemon.event("/tasks/exit", 6)
        exits = [event for topic, event in daemon.events if topic == "/tasks/exit"]
        order = [event.id for event in exits]
        assert sorted(order[:5]) == [f"e{number}" for number in range(5)]
        assert order[5:] == ["order"]
        assert {event.exit_status for event in exits} == {137}
        with pytest.raises(FailedPrecondition):
            await runtime.exec(task, "late", make_process("true"), Stdio())
        await runtime.delete(task)

    with_daemon(body)


def test_short_lives_lose_no_exit(make_bundle: MakeBundle, with_daemon: Any, make_process: Any) -> None:
    bundle = make_bundle("short", "sleep", "1000")

    async def body(daemon: Any) -> None:
        runtime = daemon.runtime
        task = await daemon.create(bundle)
        await runtime.start(task)

        async def one(number: int) -> None:
            exec_id = f"e{number}"
            await runtime.exec(task, exec_id, make_process("sh", "-c", f"exit {number}"), Stdio())
            await runtime.start(task, exec_id)
            assert (await runtime.wait(task, exec_id)).status == number
            await runtime.delete(task, exec_id)

        for start in range(0, 40, 8):
            await asyncio.gather(*(one(number) for number in range(start, start + 8)))
        await daemon.event("/tasks/exit", 40)
        await daemon.end(task)

    with_daemon(body)


def test_pause_resume_and_kill_a_paused_one(make_bundle: MakeBundle, with_daemon: Any) -> None:
    bundle = make_bundle("pause", "sleep", "1000")

    async def body(daemon: Any) -> None:
        runtime = daemon.runtime
        task = await daemon.create(bundle)
        with pytest.raises(FailedPrecondition, match="created"):
            await runtime.pause(task)
        await runtime.start(task)
        await runtime.pause(task)
        assert (await runtime.state(task)).status == "paused"
        await runtime.resume(task)
        assert (await runtime.state(task)).status == "running"
        await runtime.pause(task)
        await daemon.end(task)

    with_daemon(body)


def test_update_stats_and_out_of_memory(make_bundle: MakeBundle, with_daemon: Any) -> None:
    if not Path("/sys/fs/cgroup/memory").is_dir():
        pytest.skip("the memory controller is not on cgroup v1 here")
    script = "read x; head -c 200m /dev/zero | tail -c 200m; exit 9"
    bundle = make_bundle("oom", "sh", "-c", script)
    fifo = bundle / "stdin"
    os.mkfifo(fifo)

    async def body(daemon: Any) -> None:
        runtime = daemon.runtime
        task = await daemon.create(bundle, Stdio(stdin=str(fifo)))
        await runtime.start(task)
        with pytest.raises(IntermodalError):
            await runtime.update(task, b"no json")
        await runtime.update(task, b'{"memory":{"limit":33554432},"pids":{"limit":77}}')
        stats = await runtime.stats(task)
        assert stats.type_url == "io.containerd.cgroups.v1.Metrics"
        metrics = Metrics.FromString(stats.data)
        assert metrics.memory.usage.limit == 33554432
        assert metrics.pids.limit == 77
        assert metrics.pids.current == len(await runtime.pids(task)) == 1
        assert metrics.cpu.usage.total > 0
        fifo.write_text("go\n")
        await daemon.event("/tasks/oom")
        assert (await runtime.wait(task)).status in (9, 137)  # the kernel chooses the shell or its child
        assert Metrics.FromString((await runtime.stats(task)).data).memory_oom_control.oom_kill >= 1
        await runtime.delete(task)
        assert [name for name, _ in daemon.events] == ["/tasks/oom"]

    with_daemon(body, all_events=False)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"process": {"args": ["no-such-binary"]}}, NotFound, "no-such-binary"),
        ({"process": {"args": ["/etc"]}}, IntermodalError, "permission denied"),
        ({"process": {"cwd": "relative"}}, InvalidArgument, "absolute"),
        ({"process": None}, InvalidArgument, "rocess"),
        ({"linux": {"namespaces": [{"type": "mount"}, {"type": "network", "path": "/no/such/ns"}]}}, NotFound, "/no/"),
        ({"linux": {"namespaces": [{"type": "nonsense"}]}}, InvalidArgument, "nonsense"),
    ],
)
def test_a_create_that_fails_says_why_and_leaves_nothing(
    make_bundle: MakeBundle, with_daemon: Any, changes: dict[str, Any], error: type[Exception], says: str
) -> None:
    no_process = changes.get("process", 0) is None
    bundle = make_bundle("bad", "true", **({} if no_process else changes))
    if no_process:
        text = (bundle / "config.json").read_text()
        (bundle / "config.json").write_text(text.replace('"process"', '"nothing"'))

    async def body(daemon: Any) -> None:
        with pytest.raises(error, match=says) as raised:
            await daemon.create(bundle)
        assert "\n" not in str(raised.value)
        with pytest.raises(NotFound):
            await daemon.runtime.state(TaskRef("imtest", "bad"))
        assert not list((daemon.state / "s").iterdir())
        assert not list((daemon.state / "runc/imtest").glob("*"))

    with_daemon(body)


def test_a_spec_that_is_not_json(make_bundle: MakeBundle, with_daemon: Any) -> None:
    bundle = make_bundle("nojson", "true")
    (bundle / "config.json").write_text("no json")

    async def body(daemon: Any) -> None:
        with pytest.raises(InvalidArgument, match="invalid character"):
            await daemon.create(bundle)

    with_daemon(body)


def test_the_runtime_is_missing(make_bundle: MakeBundle, with_daemon: Any) -> None:
    bundle = make_bundle("nobinary", "true")

    async def body(daemon: Any) -> None:
        with pytest.raises(NotFound, match=r"tried .*no-such-runc"):
            await daemon.create(bundle)

    with_daemon(body, binary="no-such-runc")


def test_a_runtime_that_floods_with_errors(make_bundle: MakeBundle, with_daemon: Any, tmp_path: Path) -> None:
    bundle = make_bundle("flood", "true")
    fake = tmp_path / "runc-that-floods"
    fake.write_text("#!/bin/sh\nhead -c 1000000 /dev/zero | tr '\\0' 'x' >&3\necho >&3; echo last words >&3; exit 1\n")
    fake.chmod(0o755)

    async def body(daemon: Any) -> None:
        with pytest.raises(InvalidArgument, match=r"last words$"):
            await daemon.create(bundle)

    with_daemon(body, binary=str(fake))


def test_a_stopped_runtime_command_disturbs_no_other(
    make_bundle: MakeBundle, with_daemon: Any, make_process: Any, tmp_path: Path
) -> None:
    """The one container's commands stop themselves; the other's, and its own kill, go on."""
    stuck, free = make_bundle("stuck", "sleep", "1000"), make_bundle("free", "sleep", "1000")
    fake = tmp_path / "runc-that-stops"
    fake.write_text('#!/bin/sh\ncase "$*" in *" pause stuck"*) kill -STOP $$;; esac\nexec runc "$@"\n')
    fake.chmod(0o755)

    async def body(daemon: Any) -> None:
        runtime = daemon.runtime
        tasks = [await daemon.create(bundle) for bundle in (stuck, free)]
        for task in tasks:
            await runtime.start(task)
        pausing = asyncio.ensure_future(runtime.pause(tasks[0]))
        await runtime.exec(tasks[1], "e", make_process("true"), Stdio())
        await runtime.start(tasks[1], "e")
        assert (await runtime.wait(tasks[1], "e")).status == 0
        await runtime.pause(tasks[1])
        await runtime.resume(tasks[1])
        await daemon.end(tasks[1])
        assert not pausing.done()
        await runtime.kill(tasks[0], signal.SIGKILL)
        assert (await runtime.wait(tasks[0])).status == 137
        await runtime.cleanup(tasks[0], str(stuck))
        with pytest.raises(IntermodalError):
            await pausing

    with_daemon(body, binary=str(fake))


def test_a_stopped_exec_does_not_hold_the_exit_of_init(
    make_bundle: MakeBundle, with_daemon: Any, make_process: Any, tmp_path: Path
) -> None:
    bundle = make_bundle("held", "sleep", "1000")
    fake = tmp_path / "runc-that-stops"
    fake.write_text('#!/bin/sh\ncase "$*" in *" exec "*) kill -STOP $$;; esac\nexec runc "$@"\n')
    fake.chmod(0o755)

    async def body(daemon: Any) -> None:
        runtime = daemon.runtime
        task = await daemon.create(bundle)
        await runtime.start(task)
        await runtime.exec(task, "e", make_process("true"), Stdio())
        starting = asyncio.ensure_future(runtime.start(task, "e"))
        begun = time.monotonic()
        await daemon.end(task)
        assert time.monotonic() - begun < 2
        with pytest.raises(IntermodalError, match="137"):
            await starting

    with_daemon(body, binary=str(fake))
