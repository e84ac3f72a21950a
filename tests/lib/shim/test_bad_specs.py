"""What nobody can run: a clear error of the right kind that quotes the runtime, and nothing left. And what is held, and disturbs nobody."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from intermodal_api.containerd.runtime.runc_options_pb2 import CheckpointOptions
from intermodal_core.contracts.runtimes import Stdio, TaskRef
from intermodal_core.errors import IntermodalError, InvalidArgument, NotFound
from intermodal_core.testing.runtime_fixtures import MakeBundle
from intermodal_snapshots.mounts import mounts_below

from tests.harness.shims import Daemon

Body = Callable[[Daemon], Awaitable[None]]


@pytest.mark.parametrize(
    ("changes", "kinds", "says"),
    [
        ({"process": {"args": ["no-such-binary"]}}, (NotFound,), "no-such-binary"),
        ({"process": {"user": {"uid": -1, "gid": 0}}}, (InvalidArgument,), "uid"),
        ({"process": None}, (InvalidArgument,), "process"),
        (
            {"linux": {"namespaces": [{"type": "mount"}, {"type": "network", "path": "/no/such/namespace"}]}},
            (NotFound,),
            "/no/such/namespace",
        ),
        (
            {"linux": {"devices": [{"path": "/dev/x", "type": "z", "major": 1, "minor": 3}]}},
            (InvalidArgument,),
            "device|'z'|type",
        ),
        ({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_NONSENSE"}}}, (InvalidArgument,), "SCMP_ACT_NONSENSE"),
        ("no JSON", (InvalidArgument,), "invalid character|JSON"),
    ],
    ids=["binary", "user", "process", "namespace", "device", "seccomp", "json"],
)
def test_a_spec_that_cannot_be_run(
    with_daemon: Any, make_bundle: MakeBundle, changes: Any, kinds: tuple[type[IntermodalError], ...], says: str
) -> None:
    named = changes if isinstance(changes, dict) and changes.get("process", {}) is not None else {}
    bundle = make_bundle("bad", "true", **named)
    if changes == "no JSON":
        (bundle / "config.json").write_text("no JSON")
    elif not named:
        spec = json.loads((bundle / "config.json").read_text())
        del spec["process"]
        (bundle / "config.json").write_text(json.dumps(spec))

    async def body(daemon: Daemon) -> None:
        with pytest.raises(kinds, match=says) as raised:
            await daemon.create(bundle)
        assert "\n" not in str(raised.value)
        with pytest.raises(NotFound):
            await daemon.runtime.state(TaskRef("imtest", "bad"))

    with_daemon(body)
    assert mounts_below(bundle) == []


def test_a_binary_that_prints_a_megabyte_of_errors(with_daemon: Any, make_bundle: MakeBundle, tmp_path: Path) -> None:
    noisy = tmp_path / "noisy"
    entry = '{"level":"error","msg":"the reason of it all"}'
    noisy.write_text(f"#!/bin/sh\nyes noise | head -c 1000000 >&3\necho '{entry}' >&3\nexit 1\n")
    noisy.chmod(0o755)
    bundle = make_bundle("noise", "true")

    async def body(daemon: Daemon) -> None:
        with pytest.raises(InvalidArgument, match="the reason of it all") as raised:
            await daemon.create(bundle)
        assert len(str(raised.value)) < 3000

    with_daemon(body, binary=str(noisy))


def test_a_fifo_nobody_reads(
    with_daemon: Any, make_bundle: MakeBundle, make_process: Callable[..., bytes], tmp_path: Path
) -> None:
    """Only its container waits: kill and delete end soon, and a neighbour's exec is undisturbed."""
    stuck, free = make_bundle("stuck", "yes"), make_bundle("free", "sleep", "1000")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    async def body(daemon: Daemon) -> None:
        held, other = await daemon.create(stuck, Stdio(stdout=str(fifo))), await daemon.create(free)
        for task in (held, other):
            await daemon.runtime.start(task)
        await daemon.runtime.exec(other, "e", make_process("true"), Stdio())
        await daemon.runtime.start(other, "e")
        assert (await asyncio.wait_for(daemon.runtime.wait(other, "e"), 10)).status == 0
        began = time.monotonic()
        await daemon.end(held)
        assert time.monotonic() - began < 5  # a second for the sink, and what a busy machine adds
        await daemon.end(other)

    with_daemon(body)


@pytest.mark.parametrize(
    "count", [pytest.param(300, marks=pytest.mark.slow), pytest.param(10_000, marks=pytest.mark.soak)]
)
def test_many_execs_in_a_row(
    with_daemon: Any, make_bundle: MakeBundle, make_process: Callable[..., bytes], count: int
) -> None:
    """The shim keeps nothing of those that are gone: no descriptor, no file, no memory that grows."""
    bundle = make_bundle("execs", "sleep", "1000")
    sizes: list[tuple[int, int]] = []

    async def one(daemon: Daemon, task: TaskRef, number: int) -> None:
        exec_id = f"e{number}"
        await daemon.runtime.exec(task, exec_id, make_process("sh", "-c", f"exit {number % 200}"), Stdio())
        await daemon.runtime.start(task, exec_id)
        assert (await daemon.runtime.wait(task, exec_id)).status == number % 200
        await daemon.runtime.delete(task, exec_id)

    async def body(daemon: Daemon) -> None:
        task = await daemon.create(bundle)
        await daemon.runtime.start(task)
        serving = daemon.runtime.shim_pid(task)
        for number in range(count):
            await one(daemon, task, number)
            if number in (50, count - 1):
                sizes.append((len(os.listdir(f"/proc/{serving}/fd")), len(os.listdir(bundle))))
        await daemon.end(task)

    with_daemon(body, within=3600)
    assert sizes[1][1] == sizes[0][1]
    assert sizes[1][0] <= sizes[0][0] + 40  # at rest it has taken up the descriptors of the process that served


FAKE = """#!/bin/sh
echo "$*" >> {calls}
case "$*" in
*" checkpoint "*) exit {status} ;;
*" restore "*) while [ "$1" != --pid-file ]; do shift; done; sleep 1000 & echo -n $! > "$2" ;;
*) exec runc "$@" ;;
esac
"""


def fake(tmp_path: Path, status: int = 0) -> str:
    """runc, but for what CRIU does: that is written down."""
    path = tmp_path / "fake"
    path.write_text(FAKE.format(calls=tmp_path / "calls", status=status))
    path.chmod(0o755)
    return str(path)


def call_of(tmp_path: Path, verb: str) -> list[str]:
    lines = (tmp_path / "calls").read_text().splitlines()
    return next(line for line in lines if f" {verb} " in line).split()


def test_a_checkpoints_options_reach_the_runtime(with_daemon: Any, make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle("c", "sleep", "1000")
    options = CheckpointOptions(
        exit=True,
        open_tcp=True,
        external_unix_sockets=True,
        terminal=True,
        file_locks=True,
        empty_namespaces=["network"],
        cgroups_mode="soft",
        work_path="/work",
        parent_path="/parent",
    )

    async def body(daemon: Daemon) -> None:
        task = await daemon.create(bundle)
        await daemon.runtime.start(task)
        await daemon.runtime.checkpoint(task, "/image", options.DESCRIPTOR.full_name, options.SerializeToString())
        event = await daemon.event("/tasks/checkpointed")
        assert (event.container_id, event.checkpoint) == ("c", "/image")
        await daemon.end(task)

    with_daemon(body, binary=fake(tmp_path))
    words = call_of(tmp_path, "checkpoint")
    assert words[words.index("checkpoint") + 1 : words.index("checkpoint") + 3] == ["--image-path", "/image"]
    assert "--leave-running" not in words
    for option in ("--tcp-established", "--ext-unix-sk", "--shell-job", "--file-locks", "--empty-ns=network"):
        assert option in words
    for option, value in (("--manage-cgroups-mode", "soft"), ("--work-path", "/work"), ("--parent-path", "/parent")):
        assert words[words.index(option) + 1] == value


def test_a_checkpoint_leaves_it_running_unless_told(with_daemon: Any, make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle("c", "sleep", "1000")

    async def body(daemon: Daemon) -> None:
        task = await daemon.create(bundle)
        await daemon.runtime.start(task)
        await daemon.runtime.checkpoint(task, "/image")
        assert (await daemon.runtime.state(task)).status == "running"
        await daemon.end(task)

    with_daemon(body, binary=fake(tmp_path))
    assert "--leave-running" in call_of(tmp_path, "checkpoint")


def test_a_checkpoint_that_fails_changes_nothing(with_daemon: Any, make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle("c", "sleep", "1000")

    async def body(daemon: Daemon) -> None:
        task = await daemon.create(bundle)
        await daemon.runtime.start(task)
        with pytest.raises(IntermodalError, match="fake checkpoint ended with status 3"):
            await daemon.runtime.checkpoint(task, "/image")
        assert (await daemon.runtime.state(task)).status == "running"
        await daemon.end(task)

    with_daemon(body, binary=fake(tmp_path, 3))


def test_a_restore_is_the_start(with_daemon: Any, make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle("c", "sleep", "1000")

    async def body(daemon: Daemon) -> None:
        task = await daemon.create(bundle, checkpoint="/image")
        assert (await daemon.runtime.state(task)).pid == 0
        pid = await daemon.runtime.start(task)
        state = await daemon.runtime.state(task)
        assert (state.status, state.pid) == ("running", pid)
        await daemon.runtime.kill(task, signal.SIGKILL)
        assert (await daemon.runtime.wait(task)).status == 137
        await daemon.runtime.delete(task)

    with_daemon(body, binary=fake(tmp_path), no_pivot=True)
    words = call_of(tmp_path, "restore")
    assert words[words.index("--image-path") + 1] == "/image"
    assert words[words.index("--bundle") + 1] == str(bundle)
    assert {"--detach", "--no-pivot"} <= set(words)
