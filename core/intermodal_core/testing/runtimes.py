"""The conformance kit of runtimes: subclass `RuntimeKit`, say how one is opened, run pytest.

    class TestMine(RuntimeKit):
        capabilities = frozenset({"exec", "pause"})    # as the plugin declares them; the others' tests are skipped

        @pytest.fixture
        def opened(self, tmp_path): ...                # see `intermodal_core.testing.runtime_fixtures`

One that our shim drives has `intermodal_shim.testing.opener` for that. Bundles are those of `intermodal_core.testing.bundles`; a
runtime of another kind overrides the fixtures `make_bundle` and `mounts`.

Needs root and what the runtime needs. A test's name says which rule of `intermodal_core.contracts.runtimes` it holds to:
`test_r10_...` is of [R10]. Of [R3], that `/tasks/start` comes first is the tasks manager's, who publishes it.
"""

# ruff: noqa: D102 - what a test holds to is the contract's rule that its name gives

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from intermodal_snapshots.mounts import mounts_below

from intermodal_core.contracts.runtimes import Runtime, Stdio, TaskRef
from intermodal_core.errors import (
    AlreadyExists,
    FailedPrecondition,
    IntermodalError,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from intermodal_core.testing.runtime_control import ControlRules
from intermodal_core.testing.runtime_fixtures import (
    FOREVER,
    NOBODY,
    MakeBundle,
    Open,
    Tasks,
    cgroups_of,
    lives,
    process,
    until,
)

__all__ = ["MakeBundle", "Open", "RuntimeKit"]


class RuntimeKit(ControlRules):
    """The rules of the contract, each a test or several."""

    # -- R1 to R5: what always holds ----------------------------------------------------------------------------------

    def test_r1_a_task_outlives_the_daemon(self, run: Any, make_bundle: MakeBundle, fifo: Path, tmp_path: Path) -> None:
        """And so does its output, of which none passes through the daemon."""
        bundle, out = make_bundle("outlives", "sh", "-c", "read x; echo $x; read y; echo $y; exit 3"), tmp_path / "out"
        pids: list[int] = []

        async def first(tasks: Tasks) -> None:
            task = await tasks.started(bundle, Stdio(stdin=str(fifo), stdout=f"file://{out}"))
            pids.append((await tasks.runtime.state(task)).pid)

        async def between() -> None:
            fifo.write_text("alone\n")
            await until(lambda: out.read_text() == "alone\n")

        async def second(tasks: Tasks) -> None:
            task = TaskRef("kit", bundle.name)
            assert await tasks.runtime.connect(task, str(bundle)) == pids[0]
            fifo.write_text("again\n")
            assert (await tasks.runtime.wait(task)).status == 3
            await tasks.runtime.delete(task)
            assert out.read_text() == "alone\nagain\n"

        run(first)
        assert lives(pids[0])
        asyncio.run(between())
        run(second)

    def test_r2_an_exit_is_never_lost(self, run: Any, make_bundle: MakeBundle) -> None:
        bundle = make_bundle("exits", "sh", "-c", "exit 7")

        async def body(tasks: Tasks) -> None:
            task = await tasks.started(bundle)
            for _ in range(3):
                ended = await tasks.runtime.wait(task)
                state = await tasks.runtime.state(task)
                assert (state.status, state.exit_status, state.exited_at) == ("stopped", 7, ended.exited_at)
            deleted = await tasks.runtime.delete(task)
            assert (deleted.status, deleted.exited_at) == (ended.status, ended.exited_at) == (7, ended.exited_at)
            assert abs(deleted.exited_at / 1e9 - time.time()) < 60

        run(body)

    def test_r2_an_exit_while_there_was_no_daemon(self, run: Any, make_bundle: MakeBundle, fifo: Path) -> None:
        bundle = make_bundle("alone", "sh", "-c", "read x; exit 9")
        pids: list[int] = []

        async def first(tasks: Tasks) -> None:
            task = await tasks.started(bundle, Stdio(stdin=str(fifo)))
            pids.append((await tasks.runtime.state(task)).pid)

        async def between() -> None:
            fifo.write_text("go\n")
            await until(lambda: not lives(pids[0]))

        async def second(tasks: Tasks) -> None:
            task = TaskRef("kit", bundle.name)
            await tasks.runtime.connect(task, str(bundle))
            assert (await tasks.runtime.wait(task)).status == 9
            told = await tasks.opened.event("/tasks/exit")
            assert (told.container_id, told.exit_status) == (bundle.name, 9)
            assert (await tasks.runtime.delete(task)).status == 9

        run(first)
        asyncio.run(between())
        run(second)

    def test_r2_exits_of_many_execs(self, run: Any, make_bundle: MakeBundle) -> None:
        self.declares("exec")
        bundle = make_bundle("many", *FOREVER)

        async def body(tasks: Tasks) -> None:
            task = await tasks.started(bundle)

            async def one(number: int) -> None:
                exec_id = f"e{number}"
                await tasks.runtime.exec(task, exec_id, process("sh", "-c", f"exit {number}"), Stdio())
                await tasks.runtime.start(task, exec_id)
                assert (await tasks.runtime.wait(task, exec_id)).status == number
                assert (await tasks.runtime.delete(task, exec_id)).status == number

            await asyncio.gather(*map(one, range(1, 13)))
            await tasks.opened.event("/tasks/exit", 12)
            exits = [event for topic, event in tasks.opened.events if topic == "/tasks/exit"]
            assert sorted(event.exit_status for event in exits) == list(range(1, 13))
            await tasks.end(task)

        run(body)

    def test_r3_execs_exit_before_init(self, run: Any, make_bundle: MakeBundle) -> None:
        self.declares("exec")
        bundle = make_bundle("order", *FOREVER)

        async def body(tasks: Tasks) -> None:
            task = await tasks.started(bundle)
            for number in range(4):
                await tasks.runtime.exec(task, f"e{number}", process(*FOREVER), Stdio())
                await tasks.runtime.start(task, f"e{number}")
            await tasks.end(task)
            await tasks.opened.event("/tasks/exit", 5)
            order = [event.id for topic, event in tasks.opened.events if topic == "/tasks/exit"]
            assert sorted(order[:4]) == ["e0", "e1", "e2", "e3"]
            assert order[4:] == [bundle.name]

        run(body)

    @pytest.mark.parametrize(
        "changes",
        [
            {"process": {"args": ["no-such-binary"]}},
            {"process": {"cwd": "relative"}},
            {"linux": {"namespaces": [{"type": "mount"}, {"type": "network", "path": "/no/such/namespace"}]}},
            None,
        ],
        ids=["no binary", "a relative directory", "no namespace", "no JSON"],
    )
    def test_r4_a_failed_create_leaves_nothing(
        self, run: Any, make_bundle: MakeBundle, tmp_path: Path, changes: dict[str, Any] | None
    ) -> None:
        good, bad = make_bundle("good", *FOREVER), make_bundle("bad", "true", **(changes or {}))
        if changes is None:
            (bad / "config.json").write_text("no JSON")

        def remains() -> set[str]:
            files = {str(path) for path in tmp_path.rglob("*") if not path.is_relative_to(bad)}
            return files | set(mounts_below(tmp_path)) | {f"process {pid}" for pid in _processes_at(bad)}

        async def body(tasks: Tasks) -> None:
            await tasks.end(await tasks.started(good))  # what is made once, at the first task, is no leftover
            before = remains()
            for _ in range(2):
                with pytest.raises(IntermodalError):
                    await tasks.attempt(bad)
                with pytest.raises(NotFound):
                    await tasks.runtime.state(TaskRef("kit", bad.name))
            await until(lambda: remains() <= before)

        run(body)

    def test_r5_one_stuck_task_delays_no_other(self, run: Any, make_bundle: MakeBundle, fifo: Path) -> None:
        """One writes where nobody reads, and is waited for by many; the other lives meanwhile."""
        stuck, free = make_bundle("stuck", "yes"), make_bundle("free", "true")

        async def body(tasks: Tasks) -> None:
            held = await tasks.started(stuck, Stdio(stdout=str(fifo)))
            waiting = [asyncio.ensure_future(tasks.runtime.wait(held)) for _ in range(20)]
            for _ in range(3):
                task = await asyncio.wait_for(tasks.started(free), 10)
                assert (await asyncio.wait_for(tasks.runtime.wait(task), 10)).status == 0
                await asyncio.wait_for(tasks.runtime.delete(task), 10)
            await tasks.runtime.kill(held, signal.SIGKILL)
            assert {ended.status for ended in await asyncio.gather(*waiting)} == {137}
            await tasks.runtime.delete(held)

        run(body)

    # -- R6 to R9: from nothing and back ------------------------------------------------------------------------------

    def test_r6_info(self, run: Any) -> None:
        async def body(tasks: Tasks) -> None:
            assert isinstance(tasks.runtime, Runtime)
            info = await tasks.runtime.info()
            assert info.name
            assert info.version
            assert os.access(info.binary, os.X_OK)

        run(body)

    def test_r6_no_binary(self, run: Any) -> None:
        self.declares("binary")

        async def body(tasks: Tasks) -> None:
            with pytest.raises(NotFound, match="/no/such/binary"):
                await tasks.runtime.info()

        run(body, binary="/no/such/binary")

    def test_r7_create_holds_the_program(self, run: Any, make_bundle: MakeBundle, tmp_path: Path) -> None:
        out = tmp_path / "out"
        bundle = make_bundle("held", "echo", "ran")

        async def body(tasks: Tasks) -> None:
            stdio = Stdio(stdout=f"file://{out}")
            task = await tasks.create(bundle, stdio)
            state = await tasks.runtime.state(task)
            assert (state.status, state.bundle, state.stdio) == ("created", str(bundle), stdio)
            assert lives(state.pid)
            with pytest.raises(AlreadyExists):
                await tasks.create(bundle)
            assert out.read_text() == ""
            await tasks.runtime.start(task)
            await tasks.runtime.wait(task)
            await tasks.runtime.delete(task)
            assert out.read_text() == "ran\n"

        run(body)

    def test_r7_a_spec_that_is_refused(self, run: Any, make_bundle: MakeBundle) -> None:
        bundle = make_bundle("refused", "true", process={"cwd": "relative"})

        async def body(tasks: Tasks) -> None:
            with pytest.raises(InvalidArgument, match=r"(?i)cwd|relative") as raised:
                await tasks.create(bundle)
            assert "\n" not in str(raised.value)

        run(body)

    def test_r8_connect(self, run: Any, make_bundle: MakeBundle) -> None:
        bundle = make_bundle("taken", *FOREVER)
        pids: list[int] = []

        async def first(tasks: Tasks) -> None:
            with pytest.raises(NotFound):
                await tasks.runtime.connect(NOBODY, str(bundle))
            pids.append((await tasks.runtime.state(await tasks.started(bundle))).pid)

        async def second(tasks: Tasks) -> None:
            task = TaskRef("kit", bundle.name)
            assert await tasks.runtime.connect(task, str(bundle)) == pids[0]
            assert (await tasks.runtime.state(task)).status == "running"
            await tasks.end(task)

        run(first)
        run(second)

    @pytest.mark.parametrize("starts", [False, True])
    def test_r9_cleanup(self, run: Any, make_bundle: MakeBundle, starts: bool) -> None:
        bundle = make_bundle("orphan", *FOREVER)

        async def body(tasks: Tasks) -> None:
            task = await tasks.create(bundle)
            if starts:
                await tasks.runtime.start(task)
            pid = (await tasks.runtime.state(task)).pid
            cgroups = cgroups_of(pid)
            await self.orphan(tasks, task)
            with pytest.raises((NotFound, Unavailable)):
                await tasks.runtime.wait(task)
            with pytest.raises(NotFound):
                await tasks.runtime.connect(task, str(bundle))
            ended = await tasks.runtime.cleanup(task, str(bundle))
            assert ended.status == 137
            assert abs(ended.exited_at / 1e9 - time.time()) < 60
            assert not lives(pid)
            assert not [path for path in cgroups if path.exists()]
            assert mounts_below(bundle) == []
            await tasks.runtime.cleanup(task, str(bundle))
            with pytest.raises(NotFound):
                await tasks.runtime.state(task)

        run(body)

    def test_r9_cleanup_of_nothing(self, run: Any, make_bundle: MakeBundle) -> None:
        bundle = make_bundle("nothing", "true")

        async def body(tasks: Tasks) -> None:
            for _ in range(2):
                assert (await tasks.runtime.cleanup(NOBODY, str(bundle))).status == 137

        run(body)

    # -- R10 to R12: processes ----------------------------------------------------------------------------------------

    def test_r10_start(self, run: Any, make_bundle: MakeBundle) -> None:
        bundle = make_bundle("starts", *FOREVER)

        async def body(tasks: Tasks) -> None:
            task = await tasks.create(bundle)
            created = await tasks.runtime.state(task)
            assert await tasks.runtime.start(task) == created.pid
            assert (await tasks.runtime.state(task)).status == "running"
            with pytest.raises(FailedPrecondition):
                await tasks.runtime.start(task)
            for nobody, exec_id in ((NOBODY, ""), (task, "nobody")):
                with pytest.raises(NotFound):
                    await tasks.runtime.start(nobody, exec_id)
            await tasks.end(task)

        run(body)

    def test_r11_exec(self, run: Any, make_bundle: MakeBundle, tmp_path: Path) -> None:
        self.declares("exec")
        bundle, out = make_bundle("exec", *FOREVER), tmp_path / "out"

        async def body(tasks: Tasks) -> None:
            runtime = tasks.runtime
            task = await tasks.started(bundle)
            await runtime.exec(task, "e", process("sh", "-c", "echo said; exit 3"), Stdio(stdout=f"file://{out}"))
            assert (await runtime.state(task, "e")).status == "created"
            with pytest.raises(AlreadyExists):
                await runtime.exec(task, "e", process("true"), Stdio())
            assert not out.exists() or out.read_text() == ""
            assert await runtime.start(task, "e") not in (0, (await runtime.state(task)).pid)
            assert (await runtime.wait(task, "e")).status == 3
            assert (await runtime.delete(task, "e")).status == 3
            assert out.read_text() == "said\n"
            await runtime.exec(task, "e", process("true"), Stdio())  # the name is free again
            await runtime.kill(task, signal.SIGKILL)
            await runtime.wait(task)
            with pytest.raises(FailedPrecondition):
                await runtime.exec(task, "late", process("true"), Stdio())
            await runtime.delete(task)

        run(body)

    def test_r12_kill(self, run: Any, make_bundle: MakeBundle, tmp_path: Path) -> None:
        out = tmp_path / "out"
        bundle = make_bundle("trap", "sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.02; done")

        async def body(tasks: Tasks) -> None:
            task = await tasks.started(bundle, Stdio(stdout=f"file://{out}"))
            await until(lambda: out.read_text() == "ready\n")
            await tasks.runtime.kill(task, signal.SIGTERM)
            assert (await tasks.runtime.wait(task)).status == 5
            for nobody, exec_id in ((task, ""), (task, "nobody"), (NOBODY, "")):
                with pytest.raises(NotFound):
                    await tasks.runtime.kill(nobody, signal.SIGTERM, exec_id)
            await tasks.runtime.delete(task)

        run(body)

    def test_r12_kill_one_or_all(self, run: Any, make_bundle: MakeBundle) -> None:
        self.declares("exec")
        bundle = make_bundle("all", *FOREVER)

        async def body(tasks: Tasks) -> None:
            task = await tasks.started(bundle)
            pids = []
            for name in ("one", "two"):
                await tasks.runtime.exec(task, name, process(*FOREVER), Stdio())
                pids.append(await tasks.runtime.start(task, name))
            await tasks.runtime.kill(task, signal.SIGUSR1, "one")
            assert (await tasks.runtime.wait(task, "one")).status == 128 + signal.SIGUSR1
            assert lives(pids[1])
            await tasks.runtime.kill(task, signal.SIGKILL, all=True)
            assert (await tasks.runtime.wait(task, "two")).status == 137
            assert (await tasks.runtime.wait(task)).status == 137
            await tasks.runtime.delete(task)

        run(body)

    # -- R22, R23, R24: the end ---------------------------------------------------------------------------------------

    def test_r22_wait(self, run: Any, make_bundle: MakeBundle) -> None:
        bundle = make_bundle("waits", *FOREVER)

        async def body(tasks: Tasks) -> None:
            task = await tasks.started(bundle)
            waiting = asyncio.ensure_future(tasks.runtime.wait(task))
            done, _ = await asyncio.wait([waiting], timeout=0.2)
            assert not done
            for nobody, exec_id in ((NOBODY, ""), (task, "nobody")):
                with pytest.raises(NotFound):
                    await tasks.runtime.wait(nobody, exec_id)
            before = time.time_ns()
            await tasks.runtime.kill(task, signal.SIGKILL)
            ended = await waiting
            assert (ended.pid, ended.status) == (0, 137)
            assert before - 10**9 <= ended.exited_at <= time.time_ns() + 10**9
            await tasks.runtime.delete(task)

        run(body)

    def test_r22_what_held_it_is_gone(self, run: Any, make_bundle: MakeBundle) -> None:
        bundle = make_bundle("gone", *FOREVER)

        async def body(tasks: Tasks) -> None:
            task = await tasks.started(bundle)
            waiting = asyncio.ensure_future(tasks.runtime.wait(task))
            await tasks.runtime.state(task)  # now the wait was sent
            await self.orphan(tasks, task)
            with pytest.raises(Unavailable):
                await waiting
            await tasks.runtime.cleanup(task, str(bundle))

        run(body)

    def test_r23_state(self, run: Any, make_bundle: MakeBundle, tmp_path: Path) -> None:
        bundle = make_bundle("state", *FOREVER)
        stdio = Stdio(stdout=f"file://{tmp_path / 'out'}")

        async def body(tasks: Tasks) -> None:
            task = await tasks.create(bundle, stdio)
            seen = []
            for step in (tasks.runtime.start(task), tasks.runtime.kill(task, signal.SIGKILL), tasks.runtime.wait(task)):
                seen.append(await tasks.runtime.state(task))
                await step
            seen.append(await tasks.runtime.state(task))
            assert [state.status for state in (seen[0], seen[1], seen[3])] == ["created", "running", "stopped"]
            assert {(state.id, state.exec_id, state.bundle, state.stdio) for state in seen} == {
                (bundle.name, "", str(bundle), stdio)
            }
            assert len({state.pid for state in seen[:2]}) == 1
            assert (seen[1].exit_status, seen[1].exited_at) == (0, 0)
            assert (seen[3].exit_status, bool(seen[3].exited_at)) == (137, True)
            for nobody, exec_id in ((NOBODY, ""), (task, "nobody")):
                with pytest.raises(NotFound):
                    await tasks.runtime.state(nobody, exec_id)
            await tasks.runtime.delete(task)

        run(body)

    def test_r24_delete(self, run: Any, make_bundle: MakeBundle, tmp_path: Path) -> None:
        """All output is there and no mount; the cgroup and what held it are gone then or soon after."""
        out = tmp_path / "out"
        bundle = make_bundle("deletes", "sh", "-c", "read x; yes | head -c 2000000")
        fifo = tmp_path / "in"
        os.mkfifo(fifo)

        async def body(tasks: Tasks) -> None:
            task = await tasks.started(bundle, Stdio(stdin=str(fifo), stdout=f"file://{out}"))
            pid = (await tasks.runtime.state(task)).pid
            cgroups = cgroups_of(pid)
            assert mounts_below(bundle)
            with pytest.raises(FailedPrecondition):
                await tasks.runtime.delete(task)
            fifo.write_text("go\n")
            await tasks.runtime.wait(task)
            ended = await tasks.runtime.delete(task)
            assert (ended.pid, ended.status, out.stat().st_size) == (pid, 0, 2_000_000)
            assert mounts_below(bundle) == []
            for call in (tasks.runtime.delete, tasks.runtime.state, tasks.runtime.wait):
                with pytest.raises(NotFound):
                    await call(task)
            await until(lambda: not any(path.exists() for path in cgroups))
            await until(lambda: not _processes_at(bundle))
            await tasks.end(await tasks.create(bundle))  # the name is free again

        run(body)

    def test_r24_a_created_one(self, run: Any, make_bundle: MakeBundle) -> None:
        bundle = make_bundle("created", "true")

        async def body(tasks: Tasks) -> None:
            task = await tasks.create(bundle)
            pid = (await tasks.runtime.state(task)).pid
            assert (await tasks.runtime.delete(task)).status == 137
            assert not lives(pid)

        run(body)

    def test_r25_processes(self, run: Any, make_bundle: MakeBundle) -> None:
        """Whoever takes the task up learns of what was started, what has ended meanwhile and what was not started."""
        self.declares("processes")
        bundle = make_bundle("processes", *FOREVER)
        task = TaskRef("kit", bundle.name)

        async def first(tasks: Tasks) -> None:
            await tasks.started(bundle)
            for exec_id in ("ended", "waits", "deleted"):
                await tasks.runtime.exec(task, exec_id, process("sh", "-c", "exit 7"), Stdio())
            for exec_id in ("ended", "deleted"):
                await tasks.runtime.start(task, exec_id)
                await tasks.runtime.wait(task, exec_id)
            await tasks.runtime.delete(task, "deleted")

        async def second(tasks: Tasks) -> None:
            with pytest.raises(NotFound):
                await tasks.runtime.processes(NOBODY)
            await tasks.runtime.connect(task, str(bundle))
            init, *execs = await tasks.runtime.processes(task)
            assert (init.exec_id, init.status, init.started) == ("", "running", True)
            assert init.pid == (await tasks.runtime.state(task)).pid
            found = {each.exec_id: (each.status, each.exit_status, each.started) for each in execs}
            assert found == {"ended": ("stopped", 7, True), "waits": ("created", 0, False)}
            await tasks.end(task)

        run(first)
        run(second)


def _processes_at(bundle: Path) -> set[int]:
    """Processes that work in a bundle's directory or speak of it."""
    found = set()
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            about = Path(f"/proc/{entry}/cmdline").read_bytes() + os.fsencode(os.readlink(f"/proc/{entry}/cwd"))
        except OSError:
            continue
        if os.fsencode(bundle) in about:
            found.add(int(entry))
    return found
