"""The spawner: real processes, killed in earnest."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from intermodal_core import spawner as module
from intermodal_core.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from intermodal_core.spawner import UNKNOWN, Child, Spawner

GOOD = """
import os, signal, sys, json, socket

class Nested:
    @staticmethod
    def run(args, fds):
        return 5

def exits(args, fds):
    return args[0]

def raises(args, fds):
    raise ValueError("no\\nsuch luck")

def leaves(args, fds):
    sys.exit(9)

def waits(args, fds):
    os.read(fds[0], 1)
    return 0

def sleeps(args, fds):
    signal.pause()

def tells(args, fds):
    os.write(fds[0], json.dumps({
        "args": args,
        "fds": fds,
        "open": sorted(int(fd) for fd in os.listdir("/proc/self/fd")),
        "null": os.readlink("/proc/self/fd/0"),
        "same_as_stderr": os.readlink("/proc/self/fd/1") == os.readlink("/proc/self/fd/2"),
        "session": os.getsid(0) == os.getpid(),
        "cwd": os.getcwd(),
        "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
        "handled": [int(n) for n in signal.valid_signals() if callable(signal.getsignal(n))],
        "comm": open("/proc/self/comm").read().strip(),
        "size": len(json.dumps(args)),
    }).encode())

def imports(args, fds):
    try:
        import this
    except ImportError as error:
        os.write(fds[0], str(error).encode())

def fills(args, fds):
    while True:
        os.write(1, bytes(65536))
"""


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("modules")
    (folder / "im_good.py").write_text(GOOD)
    (folder / "im_raises.py").write_text("import os\nraise RuntimeError('broken\\nhere')\n")
    (folder / "im_hangs.py").write_text("import threading\nthreading.Event().wait()\n")
    (folder / "im_ends.py").write_text("import os\nos._exit(3)\n")
    (folder / "im_exits.py").write_text("raise SystemExit(0)\n")
    (folder / "im_thread.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, name='busy', daemon=True).start()\n"
    )
    (folder / "im_short_thread.py").write_text(
        "import threading\nt = threading.Thread(target=int)\nt.start()\nt.join()\n"
    )
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture
def spawner(modules: Path) -> Iterator[Spawner]:
    made = Spawner()
    made.preload("im_good")
    yield made
    pid = made.pid
    made.close()
    wait_until(lambda: not Path(f"/proc/{pid}").exists() or not pid)


def wait_until(holds: Callable[[], object], timeout: float = 10.0) -> None:
    until = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < until, "it did not come to pass"
        time.sleep(0.002)


def gone(pid: int) -> bool:
    """Ended, though init may not have reaped it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def told(spawner: Spawner, function: str, args: Sequence[Any] = (), session: bool = True) -> bytes:
    reading, writing = os.pipe()
    with open(reading, "rb") as file:
        child = spawner.fork(f"im_good:{function}", args, [writing], session=session)
        os.close(writing)
        data = file.read()
        assert child.wait(10) == 0
        child.close()
    return data


def replaced(spawner: Spawner, old: int) -> None:
    wait_until(lambda: spawner.pid not in (0, old))


class TestFork:
    def test_exit_status_is_the_return_value(self, spawner: Spawner) -> None:
        for status in (0, 1, 255):
            with spawner.fork("im_good:exits", [status]) as child:
                assert child.wait(10) == status
        with spawner.fork("im_good:Nested.run", []) as child:
            assert child.wait(10) == 5
        with spawner.fork("im_good:leaves", []) as child:
            assert child.wait(10) == 9

    def test_child_has_nothing_of_the_servers(self, spawner: Spawner) -> None:
        seen = json.loads(told(spawner, "tells", ["a", {"b": [1, None]}]))
        assert seen["args"] == ["a", {"b": [1, None]}]
        listing = 1  # os.listdir's own descriptor
        assert len(seen["open"]) == 3 + len(seen["fds"]) + listing
        assert {0, 1, 2, *seen["fds"]} < set(seen["open"])
        assert seen["null"] == "/dev/null"
        assert seen["same_as_stderr"]
        assert seen["session"]
        assert seen["cwd"] == "/"
        assert seen["blocked"] == []
        assert seen["handled"] == []
        assert seen["comm"] == "im_good"

    def test_without_a_session(self, spawner: Spawner) -> None:
        assert not json.loads(told(spawner, "tells", session=False))["session"]

    def test_arguments_of_any_size(self, spawner: Spawner) -> None:
        assert json.loads(told(spawner, "tells", ["x" * 3_000_000]))["size"] > 3_000_000

    def test_descriptors_are_the_callers(self, spawner: Spawner) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs, spawner.fork("im_good:waits", [], [theirs.fileno()]) as child:
            with pytest.raises(DeadlineExceeded):
                child.wait(0.05)
            ours.send(b".")
            assert child.wait(10) == 0
            assert theirs.fileno() >= 0

    def test_exception_is_one_line_and_status_70(self, modules: Path, capfd: pytest.CaptureFixture[str]) -> None:
        made = Spawner()  # its standard error is the captured one
        made.preload("im_good")
        with made.fork("im_good:raises", []) as child:
            assert child.wait(10) == 70
        made.close()
        lines = capfd.readouterr().err.splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("im_good: ValueError: no such luck [")
        assert "im_good.py:13 raises" in lines[0]

    def test_nothing_can_be_imported_afterwards(self, spawner: Spawner) -> None:
        assert told(spawner, "imports").startswith(b"this was not preloaded")

    def test_what_cannot_be_forked(self, spawner: Spawner) -> None:
        with pytest.raises(FailedPrecondition, match="im_raises was not preloaded"):
            spawner.fork("im_raises:run", [])
        with pytest.raises(InvalidArgument, match="im_good has no function 'absent'"):
            spawner.fork("im_good:absent", [])
        with pytest.raises(InvalidArgument, match="names no function"):
            spawner.fork("im_good", [])
        with pytest.raises(InvalidArgument, match="cannot be sent"):
            spawner.fork("im_good:exits", [object()])
        with pytest.raises(InvalidArgument, match="cannot be sent"):
            spawner.fork("im_good:exits", [0], [987654])
        with pytest.raises(InvalidArgument, match="251 descriptors"):
            spawner.fork("im_good:exits", [0], [0] * 251)
        assert json.loads(told(spawner, "tells"))["args"] == []

    def test_many_descriptors(self, spawner: Spawner) -> None:
        with spawner.fork("im_good:exits", ["x" * 9000 and 4], [0] * 250) as child:
            assert child.wait(10) == 4

    def test_kill_goes_to_the_process(self, spawner: Spawner) -> None:
        with spawner.fork("im_good:sleeps", []) as child:
            assert child.kill(signal.SIGTERM)
            assert child.wait(10) == -signal.SIGTERM
            wait_until(lambda: not child.kill(0))

    async def _waits(self, child: Child) -> list[int]:
        return list(await asyncio.gather(child.wait_async(), child.wait_async()))

    def test_async_face(self, spawner: Spawner) -> None:
        async def main() -> None:
            children = await asyncio.gather(*(spawner.fork_async("im_good:exits", [n]) for n in range(40)))
            assert [await child.wait_async() for child in children] == list(range(40))
            with spawner.fork("im_good:sleeps", []) as child:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(child.wait_async(), 0.05)
                child.kill()
                assert await self._waits(child) == [-9, -9]
            for child in children:
                child.close()

        asyncio.run(main())

    def test_child_that_comes_too_late_is_killed(self, spawner: Spawner) -> None:
        os.kill(spawner.pid, signal.SIGSTOP)
        ours, theirs = socket.socketpair()
        with ours:
            with theirs, pytest.raises(DeadlineExceeded):
                spawner.fork("im_good:waits", [], [theirs.fileno()], deadline=0.05)

            async def cancelled() -> None:
                await asyncio.wait_for(spawner.fork_async("im_good:sleeps", []), 0.05)

            with pytest.raises(TimeoutError):
                asyncio.run(cancelled())
            os.kill(spawner.pid, signal.SIGCONT)
            ours.settimeout(10)
            assert ours.recv(1) == b""  # nobody holds the other end any more


class TestPreload:
    @pytest.mark.parametrize(
        ("name", "why"),
        [
            ("im_raises", r"RuntimeError: broken here \[.*im_raises.py:2"),
            ("im_exits", "SystemExit"),
            ("im_absent", "ModuleNotFoundError"),
            ("im_thread", "left 1 thread.* running .*busy"),
            ("im_ends", "ended the spawner"),
            ("im_hangs", "not imported within 0.5 s"),
        ],
    )
    def test_bad_module_is_named_and_left_out(self, spawner: Spawner, name: str, why: str) -> None:
        old = spawner.pid
        with spawner.fork("im_good:sleeps", []) as child:
            with pytest.raises(FailedPrecondition, match=f"{name} cannot be preloaded: .*{why}"):
                spawner.preload(name, 0.5 if name == "im_hangs" else 10)
            replaced(spawner, old)
            assert spawner.modules == ("im_good",)
            assert child.kill(0)
            with spawner.fork("im_good:exits", [3]) as second:
                assert second.wait(10) == 3
            with pytest.raises(FailedPrecondition, match="was not preloaded"):
                spawner.fork(f"{name}:run", [])
            child.kill()
            # Where the old spawner could be kept until its children have ended, their status is known.
            expected = UNKNOWN if name in ("im_ends", "im_hangs") else -9
            assert child.wait(10) == expected
        wait_until(lambda: not Path(f"/proc/{old}").exists())

    def test_again_is_nothing(self, spawner: Spawner) -> None:
        pid = spawner.pid
        spawner.preload("im_good")
        spawner.preload("im_short_thread")
        assert spawner.pid == pid
        assert spawner.modules == ("im_good", "im_short_thread")

    def test_module_that_turned_bad_is_given_up(self, tmp_path: Path, modules: Path) -> None:
        path = modules / "im_turns.py"
        path.write_text("")
        made = Spawner()
        try:
            made.preload("im_turns")
            made.preload("im_good")
            path.write_text("import os\nos._exit(1)\n")
            os.kill(made.pid, signal.SIGKILL)
            wait_until(lambda: made.modules == ("im_good",))
            with made.fork("im_good:exits", [3]) as child:
                assert child.wait(10) == 3
        finally:
            made.close()


class TestDeath:
    def test_children_live_on_and_calls_come_back(self, spawner: Spawner) -> None:
        for _ in range(3):
            old = spawner.pid
            with spawner.fork("im_good:sleeps", []) as child:
                os.kill(old, signal.SIGKILL)
                replaced(spawner, old)
                with spawner.fork("im_good:exits", [7]) as second:  # queued until there is a new one
                    assert second.wait(10) == 7
                with pytest.raises(DeadlineExceeded):
                    child.wait(0.02)
                assert child.kill(signal.SIGTERM)
                assert child.wait(10) == UNKNOWN
                assert asyncio.run(asyncio.wait_for(child.wait_async(), 10)) == UNKNOWN

    def test_pending_calls_fail(self, spawner: Spawner) -> None:
        os.kill(spawner.pid, signal.SIGSTOP)
        failures: list[BaseException] = []

        def call() -> None:
            try:
                spawner.fork("im_good:exits", [0])
            except Unavailable as error:
                failures.append(error)

        threads = [threading.Thread(target=call) for _ in range(5)]
        for thread in threads:
            thread.start()
        process = spawner._process
        assert process is not None
        wait_until(lambda: len(process.sent) == 5)
        os.kill(process.pid, signal.SIGKILL)
        for thread in threads:
            thread.join(10)
        assert len(failures) == 5

    def test_restarts_at_once_then_with_growing_delays(self, spawner: Spawner) -> None:
        delays = []
        for _ in range(4):
            old = spawner.pid
            os.kill(old, signal.SIGKILL)
            started = time.monotonic()
            replaced(spawner, old)
            delays.append(time.monotonic() - started)
        assert delays[0] < delays[3]
        assert all(delay >= least for delay, least in zip(delays, (0, 0.05, 0.1, 0.2), strict=True))

    def test_ends_when_the_daemon_does(self, modules: Path) -> None:
        """A daemon that is killed: its spawner ends, the child does not."""
        code = (
            "import sys, os, signal; sys.path.insert(0, sys.argv[1])\n"
            "from intermodal_core.spawner import Spawner\n"
            "s = Spawner(); s.preload('im_good'); c = s.fork('im_good:sleeps', [])\n"
            "print(s.pid, c.pid, flush=True); signal.pause()"
        )
        reading, writing = os.pipe()
        daemon = os.posix_spawn(
            sys.executable,
            [sys.executable, "-c", code, str(modules)],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, writing, 1)],
        )
        os.close(writing)
        with open(reading) as file:
            server, child = map(int, file.readline().split())
        pidfds = [os.pidfd_open(server), os.pidfd_open(child)]
        try:
            os.kill(daemon, signal.SIGKILL)
            os.waitpid(daemon, 0)
            wait_until(lambda: gone(server))
            signal.pidfd_send_signal(pidfds[1], 0)
        finally:
            signal.pidfd_send_signal(pidfds[1], signal.SIGKILL)
            for pidfd in pidfds:
                os.close(pidfd)

    def test_ends_when_the_daemon_does_while_an_import_hangs(self, modules: Path) -> None:
        code = (
            "import sys; sys.path.insert(0, sys.argv[1])\n"
            "from intermodal_core.spawner import Spawner\n"
            "s = Spawner(); s.preload('im_good'); print(s.pid, flush=True); s.preload('im_hangs', 1)"
        )
        with subprocess.Popen([sys.executable, "-c", code, str(modules)], stdout=subprocess.PIPE) as daemon:
            assert daemon.stdout is not None
            server = int(daemon.stdout.readline())
            wait_until(lambda: "futex" in Path(f"/proc/{server}/wchan").read_text())
            daemon.kill()
        assert not gone(server)
        wait_until(lambda: gone(server))

    def test_what_was_asked_before_the_end_is_answered(self, modules: Path) -> None:
        """Answered to whoever waits; where nobody does, the child is killed, for nobody else would."""
        made = Spawner()
        made.preload("im_good")
        pid = made.pid
        os.kill(pid, signal.SIGSTOP)
        ours, theirs = socket.socketpair()
        with theirs, pytest.raises(DeadlineExceeded):
            made.fork("im_good:waits", [], [theirs.fileno()], deadline=0.05)
        process = made._process
        assert process is not None
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(made.fork, "im_good:exits", [0])
            wait_until(lambda: len(process.sent) == 2)
            made.close()
            os.kill(pid, signal.SIGCONT)
            with waiting.result(10) as child:
                assert child.wait(10) in (0, UNKNOWN)
        wait_until(lambda: gone(pid))
        with ours:
            ours.settimeout(10)
            assert ours.recv(1) == b""

    def test_closed(self, modules: Path) -> None:
        made = Spawner()
        made.preload("im_good")
        pid = made.pid
        child = made.fork("im_good:sleeps", [])
        made.close()
        made.close()
        with pytest.raises(Unavailable):
            made.fork("im_good:exits", [0])
        wait_until(lambda: not Path(f"/proc/{pid}").exists())
        assert child.kill()
        assert child.wait(10) == UNKNOWN
        child.close()


class TestSpawn:
    def test_command(self, spawner: Spawner, tmp_path: Path) -> None:
        done = spawner.run(
            ["sh", "-c", "cat; echo $X >&2; pwd; exit 3"], b"in\n", env={"X": "y", "PATH": os.environ["PATH"]}
        )
        assert done == (3, b"in\n/\n", b"y\n")
        assert spawner.run(["/bin/pwd"], cwd=str(tmp_path)).stdout == f"{tmp_path}\n".encode()

    def test_descriptors_under_the_numbers_asked_for(self, spawner: Spawner) -> None:
        reading, writing = os.pipe()
        other = os.dup(2)
        with spawner.spawn(
            ["sh", "-c", "echo a >&4; ls /proc/self/fd >&3"], fds={4: writing, 3: writing, 9: other}
        ) as child:
            os.close(writing)
            os.close(other)
            with open(reading) as file:
                lines = file.read().split()
            assert child.wait(10) == 0
        assert lines == ["a", "0", "1", "2", "3", "4", "5", "9"]  # 5 is ls's own

    def test_descriptors_whatever_their_numbers(self, spawner: Spawner, tmp_path: Path) -> None:
        """Targets that are the numbers of sources still to come, in the spawner, by any order."""
        numbers = range(3, 40)
        files = {number: (tmp_path / f"{number}").open("w+") for number in numbers}
        try:
            for number, file in files.items():
                file.write(f"{number} ")
                file.flush()
            for order in (list(numbers), list(reversed(numbers))):
                fds = {number: files[number].fileno() for number in order}
                reading, writing = os.pipe()
                words = " ".join(f"/proc/self/fd/{number}" for number in numbers)
                with (
                    open(reading) as output,
                    spawner.spawn(["sh", "-c", f"cat {words}"], fds={**fds, 1: writing}) as child,
                ):
                    os.close(writing)
                    assert output.read().split() == [f"{number}" for number in numbers]
                    assert child.wait(10) == 0
        finally:
            for file in files.values():
                file.close()

    def test_what_a_module_opened_is_not_inherited(self, spawner: Spawner, modules: Path) -> None:
        (modules / "im_opens.py").write_text("import os\nos.set_inheritable(os.open('/', os.O_RDONLY), True)\n")
        spawner.preload("im_opens")
        assert spawner.run(["ls", "/proc/self/fd"]).stdout.split() == [b"0", b"1", b"2", b"3"]

    def test_broken_pipe_ends_a_command(self, spawner: Spawner) -> None:
        assert spawner.run(["sh", "-c", "trap '' 0; yes | head -1; kill -PIPE $$"]).exit == -signal.SIGPIPE

    def test_what_cannot_be_executed(self, spawner: Spawner, tmp_path: Path) -> None:
        (tmp_path / "plain").write_text("")
        with pytest.raises(NotFound, match=r"execute /no/such"):
            spawner.spawn(["/no/such"])
        with pytest.raises(NotFound, match="/no/directory"):
            spawner.spawn(["true"], cwd="/no/directory")
        with pytest.raises(PermissionDenied):
            spawner.spawn([str(tmp_path / "plain")])
        with pytest.raises(InvalidArgument):
            spawner.spawn([])

    def test_timeout_kills_the_group(self, spawner: Spawner, tmp_path: Path) -> None:
        note = tmp_path / "pid"
        with pytest.raises(DeadlineExceeded, match=r"sh has not ended within 0\.5 s and was killed"):
            spawner.run(["sh", "-c", f"sleep 100 & echo $! > {note}; wait"], timeout=0.5)
        wait_until(lambda: gone(int(note.read_text())))

    def test_a_descendant_that_holds_the_pipes_is_not_waited_for(self, spawner: Spawner) -> None:
        command = ["sh", "-c", "setsid sleep 100 & echo $!"]
        for done in (spawner.run(command, timeout=20), asyncio.run(spawner.run_async(command, timeout=20))):
            os.kill(int(done.stdout), signal.SIGKILL)

    def test_too_much_output(self, spawner: Spawner) -> None:
        with pytest.raises(ResourceExhausted):
            spawner.run(["yes"])
        with pytest.raises(ResourceExhausted):
            asyncio.run(spawner.run_async(["yes"]))

    def test_much_output_whole(self, spawner: Spawner) -> None:
        data = os.urandom(5_000_000)
        assert spawner.run(["cat"], data).stdout == data
        assert asyncio.run(spawner.run_async(["cat"], data)).stdout == data

    def test_async_cancelled(self, spawner: Spawner) -> None:
        async def main() -> None:
            process = spawner._process
            assert process is not None
            task = asyncio.create_task(spawner.run_async(["sleep", "100"]))
            await asyncio.to_thread(wait_until, lambda: process.children)
            [child] = process.children.values()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.wait_for(asyncio.wrap_future(child._end), 10) == -9

        asyncio.run(main())


def test_thousand_forks_under_calls(spawner: Spawner) -> None:
    """gRPC and fork hang together in one process; here both are busy. Nothing hangs, is lost, or stays open."""
    grpc = pytest.importorskip("grpc")
    echo = grpc.unary_unary_rpc_method_handler(lambda request, context: request)
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Echo", {"Say": echo})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    stop = threading.Event()
    calls: list[bytes] = []

    def call() -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            say = channel.unary_unary("/test.Echo/Say")
            while not stop.is_set():
                calls.append(say(b"x", timeout=30))

    statuses: list[int] = []

    def fork() -> None:
        for n in range(250):
            with spawner.fork("im_good:exits", [n % 7]) as child:
                statuses.append(child.wait(30))

    callers = [threading.Thread(target=call) for _ in range(2)]
    forkers = [threading.Thread(target=fork) for _ in range(4)]
    for thread in callers:
        thread.start()
    wait_until(lambda: calls)
    before = len(os.listdir("/proc/self/fd"))
    for thread in forkers:
        thread.start()
    for thread in forkers:
        thread.join(120)
    during = len(calls)
    assert len(os.listdir("/proc/self/fd")) <= before
    stop.set()
    for thread in callers:
        thread.join(30)
    server.stop(None).wait(30)
    assert sorted(statuses) == sorted([n % 7 for n in range(250)] * 4)
    assert during > 100


def test_imports_little(modules: Path) -> None:
    """Every shim shares this memory; what is imported here is paid a thousand times."""
    made = Spawner()
    try:
        (modules / "im_lists.py").write_text(
            "import os, sys, json\ndef run(args, fds):\n    os.write(fds[0], json.dumps(list(sys.modules)).encode())\n"
        )
        made.preload("im_lists")
        reading, writing = os.pipe()
        with made.fork("im_lists:run", [], [writing]) as child, open(reading, "rb") as file:
            os.close(writing)
            loaded = json.loads(file.read())
            child.wait(10)
    finally:
        made.close()
    assert not {"asyncio", "logging", "subprocess", "typing", "msgspec", "threading", "ctypes", "traceback"} & set(
        loaded
    )
    assert module.__name__ not in loaded
