"""`isolation = "process"`: the same class, apart; what it does wrong costs its own calls and nothing else."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from intermodal_core.contracts.common import Descriptor, Mount
from intermodal_core.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    IntermodalError,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from intermodal_core.kinds import Kind
from intermodal_core.registry import Registry

from tests.core.test_registry import Site, run, site
from tests.harness.waiting import until

__all__ = ["site"]

KIND = Kind("backends", "tests.core.isolated_backend:Backend", deadline=20, threads=2, close="close")
APART = 'isolation = "process"\n'


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample, to the processes, too."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2])


def offer(site: Site, *names: str, **sections: str) -> None:
    """Install the sample under these names; each gets its own section."""
    site.kinds = [KIND, Kind("services", guarded=False, eager=True)]
    for name in names:
        site.plugin(name, raw="from tests.core.isolated_backend import plugin\n")
        site.config += f"[backends.{name}]\n{sections.get(name, APART)}"


async def comes(condition: Callable[[], bool]) -> None:
    await asyncio.to_thread(until, condition, 20)


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_the_same_class_either_way(site: Site, tmp_path: Path, isolation: str) -> None:
    offer(site, "one", one=f'isolation = "{isolation}"\ncolour = "red"\n')

    async def test(registry: Registry) -> None:
        backend = await registry.require("backends", "one")
        assert (await backend.pid() == os.getpid()) == (isolation == "thread")
        descriptor = Descriptor("a/b", "sha256:0", 3, {"k": "v"}, ("http://x",))
        mounts = (Mount("bind", "/a", ("ro",)), Mount("bind", "/b"), Mount("tmpfs", "tmpfs"))
        assert await backend.echo(descriptor, mounts, labels={"l": "m"}) == (descriptor, mounts, {"l": "m"})
        assert await backend.echo(descriptor) == (descriptor, (), None)
        assert await backend.size(b"x" * (3 << 20)) == 3 << 20
        assert await backend.noise(100_000) == b"n" * 100_000
        assert await backend.count(3) == [0, 1, 2]
        reader, writer = os.pipe()
        os.write(writer, b"through a pipe")
        before = len(os.listdir("/proc/self/fd"))
        assert await backend.read(reader) == b"through a pipe"
        assert await backend.which((reader, -1, writer)) == [True, False, True]
        (tmp_path / "file").write_text("opened there")
        fd = await backend.open(str(tmp_path / "file"))
        assert os.read(fd, 100) == b"opened there"
        for each in (fd, reader, writer):
            os.close(each)
        assert len(os.listdir("/proc/self/fd")) == before - 2
        assert await backend.turn(0.01) == "turned"
        assert await backend.where() == (
            str(tmp_path / "root/backends/one"),
            str(tmp_path / "state/backends/one"),
            "red",
        )
        with pytest.raises(NotFound, match=r"^there is no such thing; make one$"):
            await backend.fails("not found")
        with pytest.raises(NotFound, match="/no/such/file"):
            await backend.fails("os")
        with pytest.raises(Internal, match=r"backends.one.fails raised KeyError: 'other'"):
            await backend.fails("other")
        with pytest.raises(Internal, match="SystemExit"):
            await backend.fails("exit")
        assert await backend.pid(), "it is still there"
        assert await backend.tell("/sample/told") == registry.events.newest
        assert await backend.command() == b"spawned\n"
        record = registry.find("backends", "one")
        assert record.plugin is not None
        assert record.plugin.capabilities == ("sample",)
        assert record.exports == {"root": str(tmp_path / "root/backends/one")}
        assert record.trouble == ""

    run(site, tmp_path, test)
    assert (tmp_path / "root/backends/one/closed").exists(), "it was told of the end"


class Helper:
    """What a backend is lent for a call."""

    def __init__(self) -> None:
        self.threads: set[int] = set()

    def double(self, number: int) -> int:
        self.threads.add(threading.get_ident())
        return 2 * number

    def socket(self, family: int) -> socket.socket:
        return socket.socket(family)

    def refuse(self) -> None:
        raise NotFound("not by me")


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_objects_are_lent(site: Site, tmp_path: Path, isolation: str) -> None:
    """What a verifier may ask, what a CNI type asks of its host, a body that is read."""
    offer(site, "one", one=f'isolation = "{isolation}"\n')

    async def test(registry: Registry) -> None:
        one = await registry.require("backends", "one")
        helper = Helper()
        assert list(await one.with_help(5, helper)) == [20, socket.AF_UNIX, "not by me"]
        assert threading.get_ident() not in helper.threads, "it blocks a thread, not the loop"
        body = await one.body(50)
        assert body.host == "https://there"
        pieces = [piece async for piece in body]
        assert b"".join(pieces) == b"".join(b"%d," % number * 1000 for number in range(50))
        await body.aclose()
        early = await one.body(50)
        assert await anext(aiter(early)) == b"0," * 1000
        assert await one.bodies() == 1
        await early.aclose()
        assert await one.bodies() == 0
        with pytest.raises(NotFound, match="the hundredth piece is gone"):
            async for _ in await one.body(200):
                pass
        if isolation == "process":
            process = registry.find("backends", "one").process
            assert process is not None
            assert process._peer._lent == {}

    run(site, tmp_path, test)


def test_the_daemon_never_imports_it(site: Site, tmp_path: Path) -> None:
    site.kinds = [KIND]
    module = site.plugin("one", raw="from tests.core.isolated_backend import plugin\n")
    site.config += f"[backends.one]\n{APART}"

    async def test(registry: Registry) -> None:
        backend = await registry.require("backends", "one")
        assert await backend.fork() == 7, "in its own process it may fork"
        assert module not in sys.modules

    run(site, tmp_path, test)


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_hung_call_ends_the_process_and_nothing_else(site: Site, tmp_path: Path, stubborn: bool) -> None:
    offer(site, "one", "two", one=f"{APART}deadline = 0.5\n")

    async def test(registry: Registry) -> None:
        one, two = await registry.require("backends", "one"), await registry.require("backends", "two")
        record = registry.find("backends", "one")
        pid = await one.pid()
        beside = asyncio.create_task(one.hang(30))
        hung = asyncio.create_task(one.hang(30, stubborn))
        await asyncio.sleep(0.1)
        assert await two.size(b"ab") == 2, "another plugin serves meanwhile"
        results = await asyncio.gather(hung, beside, return_exceptions=True)
        assert {type(result) for result in results} <= {DeadlineExceeded, Unavailable}
        assert any("outcome is unknown" in str(result) for result in results)
        began = time.monotonic()
        if record.trouble:
            with pytest.raises(Unavailable, match="is started again"):
                await one.pid()
            assert time.monotonic() - began < 0.3, "fails at once"
        await comes(lambda: not record.trouble)
        assert await one.pid() != pid
        assert record.process is not None
        assert record.process.restarts == 1
        assert "did not return within 0.5 s" in record.process.last_error
        assert not Path(f"/proc/{pid}").exists()

    run(site, tmp_path, test)


def test_a_caller_who_gives_up_leaves_no_hung_process(site: Site, tmp_path: Path) -> None:
    offer(site, "one", one=f"{APART}deadline = 0.6\n")

    async def test(registry: Registry) -> None:
        one = await registry.require("backends", "one")
        record = registry.find("backends", "one")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await one.hang(30)
        await comes(lambda: record.process is not None and record.process.restarts == 1)

    run(site, tmp_path, test)


def test_calls_that_wait_for_a_thread_end_no_process(site: Site, tmp_path: Path) -> None:
    offer(site, "one", one=f"{APART}deadline = 1.8\nthreads = 1\n")

    async def test(registry: Registry) -> None:
        one = await registry.require("backends", "one")
        pid = await one.pid()
        calls = [asyncio.create_task(one.hang(1.2)) for _ in range(3)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert results[:2] == ["late", "late"], "each was in time, from when it began"
        assert "waited for a free thread" in str(results[2])
        assert await one.pid() == pid

    run(site, tmp_path, test)


@pytest.mark.parametrize("how", ["exit", "kill"])
def test_a_process_that_dies_costs_its_own_calls(
    site: Site, tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    offer(site, "one", "two")

    async def test(registry: Registry) -> None:
        one, two = await registry.require("backends", "one"), await registry.require("backends", "two")
        record = registry.find("backends", "one")
        assert record.process is not None
        waiting = asyncio.create_task(one.turn(30))
        await asyncio.sleep(0.05)
        if how == "kill":
            os.kill(record.process.pid, signal.SIGKILL)
        else:
            with pytest.raises(Unavailable, match="the outcome of the call is unknown"):
                await one.end(3)
        with pytest.raises(Unavailable):
            await waiting
        assert await two.size(b"ab") == 2
        await comes(lambda: record.process is not None and record.process.restarts == 1 and not record.trouble)
        assert await one.size(b"abc") == 3
        assert record.process.last_error == (
            "its process was ended by SIGKILL" if how == "kill" else "its process ended with status 3"
        )

    with caplog.at_level(logging.WARNING):
        run(site, tmp_path, test)
    assert "it is started again" in caplog.text


def test_leaks_are_its_own(site: Site, tmp_path: Path) -> None:
    offer(site, "one")

    async def test(registry: Registry) -> None:
        one = await registry.require("backends", "one")
        await one.size(b"")
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(ResourceExhausted):
            await one.leak(1 << 20)
        assert len(os.listdir("/proc/self/fd")) == before
        assert os.open("/dev/null", os.O_RDONLY) >= 0

    run(site, tmp_path, test)


def test_one_that_cannot_come_back_is_tried_with_back_off(site: Site, tmp_path: Path) -> None:
    offer(site, "one", one=f'{APART}trouble = "later"\n')

    async def test(registry: Registry) -> None:
        one = await registry.require("backends", "one")
        record = registry.find("backends", "one")
        process = record.process
        assert process is not None
        with pytest.raises(Unavailable):
            await one.end(3)
        await comes(lambda: process.restarts >= 2)
        assert "not a second time" in record.trouble
        with pytest.raises(Unavailable, match="not a second time"):
            await one.size(b"")
        (tmp_path / "root/backends/one/once").unlink()
        await comes(lambda: not record.trouble)
        assert await one.size(b"a") == 1

    run(site, tmp_path, test)


def test_what_keeps_it_from_being_made(site: Site, tmp_path: Path) -> None:
    offer(
        site,
        "skipped",
        "dead",
        "typed",
        "missing",
        skipped=f'{APART}trouble = "skip"\n',
        dead=f'{APART}trouble = "die"\n',
        typed=f"{APART}colour = 7\n",
    )
    module = site.plugin("missing2", raw="import no_such_module\n")
    site.config += f"[backends.missing2]\n{APART}"

    async def test(registry: Registry) -> None:
        for name, state, words in (
            ("skipped", "skipped", "there is no such machine"),
            ("dead", "failed", "ended with status 5 while it was to construct"),
            ("typed", "failed", r"config.toml:\d+: backends.typed.colour: expected text"),
            ("missing2", "failed", f"importing {module}:plugin failed: No module named 'no_such_module'"),
        ):
            with pytest.raises(FailedPrecondition, match=words):
                await registry.require("backends", name)
            record = registry.find("backends", name)
            assert (record.state, record.process) == (state, None)
        assert registry.find("backends", "skipped").remedy == "buy one"
        assert registry.find("backends", "missing2").code == "missing_dependency"

    run(site, tmp_path, test)


def test_kinds_that_stay_in_the_daemon_are_refused(site: Site, tmp_path: Path) -> None:
    offer(site)
    site.plugin("inside", kind="services")
    site.config += f"[services.inside]\n{APART}"

    async def test(registry: Registry) -> None:
        await registry.start()
        record = registry.find("services", "inside")
        assert record.code == "isolation"
        assert record.why_not() == (
            "services.inside is failed: plugins of the kind services run within the daemon; "
            'take isolation = "process" out of [services.inside]'
        )

    run(site, tmp_path, test)


def test_a_coroutine_that_is_late_is_cancelled_and_one_that_blocks_ends_the_process(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(site, "one", one=f"{APART}deadline = 0.4\n")
    monkeypatch.setattr("intermodal_core.isolation._ANSWER", 0.5)

    async def test(registry: Registry) -> None:
        one = await registry.require("backends", "one")
        record = registry.find("backends", "one")
        assert record.process is not None
        pid = record.process.pid
        with pytest.raises(DeadlineExceeded):
            await one.turn(30)
        await asyncio.sleep(0.6)
        assert (record.process.pid, record.trouble) == (pid, ""), "one stuck task delays no other"
        with pytest.raises(IntermodalError):
            await one.block(30)
        await comes(lambda: record.process is not None and record.process.restarts == 1)
        assert "blocked its loop" in record.process.last_error

    run(site, tmp_path, test)


def test_plugins_apart_call_each_other(site: Site, tmp_path: Path) -> None:
    offer(site, "one", "two", "three", two="")

    async def test(registry: Registry) -> None:
        one = await registry.require("backends", "one")
        for name in ("two", "three"):
            await registry.require("backends", name)
            assert await one.other(name) == 3
        with pytest.raises(NotFound, match=r"there is no backends\.none"):
            await one.other("none")

    run(site, tmp_path, test)


def test_values_that_cannot_cross(site: Site, tmp_path: Path) -> None:
    offer(site, "one")

    async def test(registry: Registry) -> None:
        one = await registry.require("backends", "one")
        for wrong in ("\udcff", object()):
            with pytest.raises(InvalidArgument):
                await one.open(wrong)
        with pytest.raises(InvalidArgument, match="data does not fit the contract"):
            await one.size("text")
        with pytest.raises(AttributeError, match="not in the contract"):
            one.context  # noqa: B018

    run(site, tmp_path, test)


def test_what_has_a_process_is_stopped_last(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(site, "inside", "apart", inside="")
    site.plugin(
        "serving",
        "return Serving()",
        kind="services",
        before="class Serving:\n"
        "    async def __aenter__(self): return self\n"
        "    async def __aexit__(self, *_): open(__file__ + '.end', 'w').close()\n",
    )
    ends: list[str] = []

    async def test(registry: Registry) -> None:
        await registry.require("backends", "apart")
        await registry.require("backends", "inside")
        await registry.start()
        for name in ("apart", "inside"):
            (tmp_path / "root/backends" / name).mkdir(exist_ok=True, parents=True)

    run(site, tmp_path, test)
    ended = [
        next(site.path.glob("*.end")),
        *(tmp_path / "root/backends" / name / "closed" for name in ("inside", "apart")),
    ]
    times = [path.stat().st_mtime_ns for path in ended]
    assert times == sorted(times), ends


HOOKS = """
import os
from intermodal_core.errors import PermissionDenied
from intermodal_core.hooks import hookimpl
from intermodal_core.plugin import Plugin

class Mine:
    @hookimpl(tryfirst=True)
    def adjust_spec(self, spec, container):
        if container.id == "die":
            os._exit(1)
        return {**spec, "pid": os.getpid(), "id": container.id}

    @hookimpl
    def before_start(self, container):
        if container.id == "no":
            raise PermissionDenied("not this one")

plugin = Plugin(factory=lambda context: Mine())
"""


def test_hooks_apart(site: Site, tmp_path: Path) -> None:
    from intermodal_core.contracts.hooks import ContainerInfo
    from intermodal_core.contracts.kinds import HOOKS as KIND_OF_HOOKS

    site.kinds = [KIND_OF_HOOKS]
    site.plugin("mine", kind="hooks", raw=HOOKS)
    site.config += f"[hooks.mine]\n{APART}"

    async def test(registry: Registry) -> None:
        await registry.start()
        record = registry.find("hooks", "mine")
        assert record.state == "ready", record.why_not()
        container = ContainerInfo("default", "c")
        spec: dict[str, object] = await registry.hooks.change("adjust_spec", {"a": 1}, container=container)
        assert record.process is not None
        assert spec == {"a": 1, "pid": record.process.pid, "id": "c"}
        await registry.hooks.notify("before_start", container=container)
        with pytest.raises(PermissionDenied, match=r"hook before_start of hooks\.mine: not this one"):
            await registry.hooks.notify("before_start", container=ContainerInfo("default", "no"))
        with pytest.raises(Unavailable):
            await registry.hooks.change("adjust_spec", {}, container=ContainerInfo("default", "die"))
        await comes(lambda: record.process is not None and record.process.restarts == 1 and not record.trouble)
        spec = await registry.hooks.change("adjust_spec", {}, container=container)
        assert spec["id"] == "c"

    run(site, tmp_path, test)


def test_the_process_ends_with_the_daemon(site: Site, tmp_path: Path) -> None:
    """Even where a call holds the interpreter: nothing is left that would keep the next daemon from the same files."""
    offer(site, "one")
    reader, writer = os.pipe()
    daemon = os.fork()
    if daemon == 0:

        async def serve(registry: Registry) -> None:
            one = await registry.require("backends", "one")
            os.write(writer, str(await one.pid()).encode())
            await one.hang(600, True)

        try:
            run(site, tmp_path, serve)
        finally:
            os._exit(1)
    pid = int(os.read(reader, 20))
    os.kill(daemon, signal.SIGKILL)
    os.waitpid(daemon, 0)
    for end in (reader, writer):
        os.close(end)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}/stat").exists() and ") Z" not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < deadline, "it outlived the daemon"
        time.sleep(0.02)
