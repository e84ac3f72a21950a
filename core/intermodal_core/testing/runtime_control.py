"""The rules of a running task: pause, streams, limits, numbers, checkpoints; the part of `RuntimeKit` from [R13] to [R21]."""

# ruff: noqa: D102 - what a test holds to is the contract's rule that its name gives

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest

from intermodal_core.contracts.runtimes import Stdio, TaskRef
from intermodal_core.errors import FailedPrecondition, IntermodalError, NotFound, Unimplemented
from intermodal_core.testing.runtime_fixtures import FOREVER, NOBODY, MakeBundle, RuntimeFixtures, Tasks, until

__all__ = ["ControlRules"]


class ControlRules(RuntimeFixtures):
    """Tests; see `intermodal_core.testing.runtimes`."""

    # -- R13, R14: pause ----------------------------------------------------------------------------------------------

    def test_r13_r14_pause_and_resume(self, run: Any, make_bundle: MakeBundle, tmp_path: Path) -> None:
        self.declares("pause")
        out = tmp_path / "out"
        bundle = make_bundle("pause", "sh", "-c", "while :; do echo x; sleep 0.02; done")

        async def body(tasks: Tasks) -> None:
            task = await tasks.started(bundle, Stdio(stdout=f"file://{out}"))
            await until(lambda: out.stat().st_size > 4)
            await tasks.runtime.pause(task)
            assert (await tasks.runtime.state(task)).status == "paused"
            await asyncio.sleep(0.1)  # what was written before is on its way
            size = out.stat().st_size
            await asyncio.sleep(0.3)  # long enough for ten more lines
            assert out.stat().st_size == size
            await tasks.runtime.resume(task)
            assert (await tasks.runtime.state(task)).status == "running"
            await until(lambda: out.stat().st_size > size)
            await tasks.runtime.pause(task)
            await tasks.end(task)  # a paused one can be ended

        run(body)

    def test_r13_without_pause(self, run: Any, make_bundle: MakeBundle) -> None:
        self.lacks("pause")
        bundle = make_bundle("unpaused", *FOREVER)

        async def body(tasks: Tasks) -> None:
            task = await tasks.started(bundle)
            with pytest.raises(Unimplemented):
                await tasks.runtime.pause(task)
            await tasks.end(task)

        run(body)

    # -- R15, R16, R17: streams ---------------------------------------------------------------------------------------

    def test_r15_resize(self, run: Any, make_bundle: MakeBundle, fifo: Path, tmp_path: Path) -> None:
        self.declares("terminal")
        out = tmp_path / "out"
        bundle = make_bundle("tty", "sh", "-c", "stty size; read x; stty size", terminal=True)

        async def body(tasks: Tasks) -> None:
            stdio = Stdio(stdin=str(fifo), stdout=f"file://{out}", terminal=True)
            task = await tasks.create(bundle, stdio)
            await tasks.runtime.resize(task, 100, 40)
            await tasks.runtime.start(task)
            await until(lambda: b"40 100\r\n" in out.read_bytes())
            await tasks.runtime.resize(task, 33, 22)
            fifo.write_text("go\n")
            assert (await tasks.runtime.wait(task)).status == 0
            await tasks.runtime.delete(task)
            assert b"22 33\r\n" in out.read_bytes()

        run(body)

    def test_r16_close_stdin(self, run: Any, make_bundle: MakeBundle, fifo: Path, tmp_path: Path) -> None:
        """End of file comes once what was written is read, and not before."""
        bundle, out = make_bundle("stdin", "cat"), tmp_path / "out"
        text = "line\n" * 1000

        async def body(tasks: Tasks) -> None:
            task = await tasks.started(bundle, Stdio(stdin=str(fifo), stdout=f"file://{out}"))
            for size in (len(text), 2 * len(text)):
                fifo.write_text(text)  # a writer who goes ends nothing
                await until(lambda size=size: out.stat().st_size == size)  # type: ignore[misc]
            assert (await tasks.runtime.state(task)).status == "running"
            await tasks.runtime.close_stdin(task)
            assert (await tasks.runtime.wait(task)).status == 0
            await tasks.runtime.delete(task)
            assert out.read_text() == 2 * text

        run(body)

    def test_r17_attach(self, run: Any, make_bundle: MakeBundle, tmp_path: Path) -> None:
        self.declares("attach")
        bundle, out = make_bundle("attach", "sh", "-c", "cat; echo err >&2"), tmp_path / "out"

        async def body(tasks: Tasks) -> None:
            task = await tasks.create(bundle, Stdio(stdin="attach://", stdout=f"file://{out}", stderr="attach://"))
            (stdin, give), (took, stdout), (errors, stderr) = os.pipe(), os.pipe(), os.pipe()
            await tasks.runtime.attach(task, (stdin, stdout, stderr), hold=True)
            for fd in (stdin, stdout, stderr):
                os.close(fd)  # they are duplicated
            await tasks.runtime.start(task)
            text = b"hello\n" * 1000
            os.write(give, text)
            os.close(give)
            read = [asyncio.to_thread(_read_all, fd) for fd in (took, errors)]  # to the end: they are closed
            assert await asyncio.gather(*read) == [text, b"err\n"]
            assert (await tasks.runtime.wait(task)).status == 0
            await tasks.runtime.delete(task)
            assert out.read_bytes() == text

        run(body)

    def test_r17_a_sink_that_is_full(self, run: Any, make_bundle: MakeBundle, tmp_path: Path) -> None:
        """It delays nobody, and the log gets everything."""
        self.declares("attach")
        bundle, out = make_bundle("full", "sh", "-c", "yes | head -c 300000"), tmp_path / "out"

        async def body(tasks: Tasks) -> None:
            task = await tasks.create(bundle, Stdio(stdout=f"file://{out}"))
            read, write = os.pipe()
            await tasks.runtime.attach(task, (-1, write, -1))
            os.close(write)
            await tasks.runtime.start(task)
            assert (await tasks.runtime.wait(task)).status == 0
            await tasks.runtime.delete(task)
            assert out.stat().st_size == 300_000
            assert 0 < len(_read_all(read)) < 300_000

        run(body)

    def test_r17_no_stream_and_no_capability(self, run: Any, make_bundle: MakeBundle) -> None:
        bundle = make_bundle("none", *FOREVER)

        async def body(tasks: Tasks) -> None:
            task = await tasks.started(bundle)
            ours, theirs = os.pipe()
            try:
                with pytest.raises(FailedPrecondition if "attach" in self.capabilities else Unimplemented):
                    await tasks.runtime.attach(task, (-1, theirs, -1))
            finally:
                os.close(ours)
                os.close(theirs)
            await tasks.end(task)

        run(body)

    # -- R18 to R21: limits, numbers, checkpoints ---------------------------------------------------------------------

    def test_r18_update(self, run: Any, make_bundle: MakeBundle, fifo: Path, tmp_path: Path) -> None:
        """A limit of one process, under which a shell cannot fork."""
        self.declares("update")
        bundle, out = make_bundle("update", "sh", "-c", "(echo one); read x; (echo two); exit 0"), tmp_path / "out"

        async def body(tasks: Tasks) -> None:
            task = await tasks.started(bundle, Stdio(stdin=str(fifo), stdout=f"file://{out}"))
            with pytest.raises(IntermodalError):
                await tasks.runtime.update(task, b"no JSON")
            await until(lambda: out.read_text() == "one\n")
            await tasks.runtime.update(task, b'{"pids":{"limit":1}}')
            fifo.write_text("go\n")
            assert (await tasks.runtime.wait(task)).status != 0
            await tasks.runtime.delete(task)
            assert out.read_text() == "one\n"

        run(body)

    def test_r19_pids(self, run: Any, make_bundle: MakeBundle, tmp_path: Path) -> None:
        self.declares("pids")
        out = tmp_path / "out"
        bundle = make_bundle("pids", "sh", "-c", "sleep 1000 & sleep 1000 & echo ready; wait")

        async def body(tasks: Tasks) -> None:
            task = await tasks.started(bundle, Stdio(stdout=f"file://{out}"))
            await until(lambda: out.read_text() == "ready\n")
            pids = await tasks.runtime.pids(task)
            assert len(set(pids)) == len(pids) == 3
            assert (await tasks.runtime.state(task)).pid in pids
            inside = {os.readlink(f"/proc/{pid}/ns/mnt") for pid in pids}
            assert len(inside) == 1
            assert inside != {os.readlink("/proc/self/ns/mnt")}
            await tasks.end(task)
            with pytest.raises(NotFound):
                await tasks.runtime.pids(task)

        run(body)

    def test_r20_stats(self, run: Any, make_bundle: MakeBundle) -> None:
        self.declares("stats")
        bundle = make_bundle("stats", "sh", "-c", "while :; do :; done")

        async def body(tasks: Tasks) -> None:
            task = await tasks.started(bundle)
            first = await tasks.runtime.stats(task)
            assert first.type_url in ("io.containerd.cgroups.v1.Metrics", "io.containerd.cgroups.v2.Metrics")
            assert first.data
            end = time.monotonic() + 10
            while (await tasks.runtime.stats(task)).data == first.data:  # time of the processor is used
                assert time.monotonic() < end
            with pytest.raises(NotFound):
                await tasks.runtime.stats(NOBODY)
            await tasks.end(task)

        run(body)

    def test_r19_pids_of_the_host(self, run: Any, make_bundle: MakeBundle) -> None:
        """Whatever can be told of what is inside, each is a pid of the host."""
        bundle = make_bundle("some", *FOREVER)

        async def body(tasks: Tasks) -> None:
            task = await tasks.started(bundle)
            pids = await tasks.runtime.pids(task)
            assert (await tasks.runtime.state(task)).pid in pids
            assert all(os.path.exists(f"/proc/{pid}") for pid in pids)
            await tasks.end(task)

        run(body)

    def test_r21_checkpoint(self, run: Any, make_bundle: MakeBundle, tmp_path: Path) -> None:
        """It is written, and a container made from it goes on where the first one was."""
        self.declares("checkpoint")
        count = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"
        bundle, again = make_bundle("before", "sh", "-c", count), make_bundle("after", "sh", "-c", count)
        path, out, more = tmp_path / "written", tmp_path / "out", tmp_path / "more"
        path.mkdir()

        async def body(tasks: Tasks) -> None:
            runtime = tasks.runtime
            task = await tasks.started(bundle, Stdio(stdout=f"file://{out}"))
            await until(lambda: len(out.read_text().split()) > 4)
            await runtime.checkpoint(task, str(path), *self.checkpoint_options)
            assert list(path.iterdir())
            await runtime.wait(task)
            await runtime.delete(task)
            restored = await tasks.create(again, Stdio(stdout=f"file://{more}"), checkpoint=str(path))
            assert (await runtime.state(restored)).status == "created"
            pid = await runtime.start(restored)
            assert (await runtime.state(restored)).pid == pid > 0
            await until(lambda: len(more.read_text().split()) > 4)
            await tasks.end(restored)
            numbers = [int(word) for word in [*out.read_text().split(), *more.read_text().split()]]
            assert numbers == list(range(1, len(numbers) + 1))

        run(body, **self.checkpoint_opened)

    def test_r21_without_checkpoint(self, run: Any, make_bundle: MakeBundle, tmp_path: Path) -> None:
        self.lacks("checkpoint")
        bundle, path = make_bundle("checkpoint", *FOREVER), tmp_path / "written"

        async def body(tasks: Tasks) -> None:
            task = await tasks.started(bundle)
            with pytest.raises(Unimplemented):
                await tasks.runtime.checkpoint(task, str(path))
            assert not path.exists()
            await tasks.end(task)

        run(body)

    def test_r26_review(self, run: Any, make_bundle: MakeBundle) -> None:
        """A spec that every runtime honours is answered with sentences, or none; the same each time, and nothing is run."""
        bundle = make_bundle("reviewed", *FOREVER)
        spec = (bundle / "config.json").read_bytes()

        async def body(tasks: Tasks) -> None:
            told = await tasks.runtime.review(spec)
            assert isinstance(told, list)
            assert [each for each in told if " " not in each or "\n" in each] == []
            assert await tasks.runtime.review(spec) == told
            assert (bundle / "config.json").read_bytes() == spec
            with pytest.raises(NotFound):
                await tasks.runtime.state(TaskRef("kit", bundle.name))

        run(body)


def _read_all(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as file:
        return file.read()
