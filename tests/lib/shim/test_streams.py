"""What goes into and comes out of a container."""

import asyncio
import hashlib
import os
import pty
import re
import signal
import socket
import time
import tty
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from intermodal_core.contracts.runtimes import Stdio
from intermodal_core.errors import FailedPrecondition, InvalidArgument, NotFound

MakeBundle = Callable[..., Path]


class Fifos:
    """FIFOs as a client makes them; what comes out is read on the loop."""

    def __init__(self, directory: Path, name: str = "") -> None:
        self.paths = {stream: directory / f"{name}{stream}.fifo" for stream in ("stdin", "stdout", "stderr")}
        for path in self.paths.values():
            os.mkfifo(path)

    def stdio(self, **changes: Any) -> Stdio:
        streams: dict[str, Any] = {stream: str(path) for stream, path in self.paths.items()}
        return Stdio(**{**streams, **changes})

    def reader(self, stream: str) -> asyncio.Future[bytes]:
        fd = os.open(self.paths[stream], os.O_RDONLY | os.O_NONBLOCK)
        return asyncio.ensure_future(read_to_end(fd))


async def read_to_end(fd: int) -> bytes:
    """Everything until the writers are gone; `fd` is closed."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb"))
    try:
        return await reader.read()
    finally:
        transport.close()


async def read_until(fd: int, wanted: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    got = b""
    os.set_blocking(fd, False)
    while wanted not in got:
        ready = loop.create_future()
        loop.add_reader(fd, ready.set_result, None)
        await ready
        loop.remove_reader(fd)
        got += os.read(fd, 65536)
    return got


@pytest.fixture
def fifos(tmp_path: Path) -> Fifos:
    return Fifos(tmp_path)


def test_fifos_and_the_end_of_stdin(make_bundle: MakeBundle, with_daemon: Any, fifos: Fifos) -> None:
    bundle = make_bundle("cat", "sh", "-c", "cat; echo done >&2")

    async def body(daemon: Any) -> None:
        readers = [fifos.reader(stream) for stream in ("stdout", "stderr")]
        task = await daemon.create(bundle, fifos.stdio())
        await daemon.runtime.start(task)
        for word in ("first ", "second "):  # a writer that goes does not end it
            fifos.paths["stdin"].write_text(word)
        last = os.open(fifos.paths["stdin"], os.O_WRONLY)
        await daemon.runtime.close_stdin(task)
        os.write(last, b"third")  # nor does CloseIO while another writer is there
        assert (await daemon.runtime.state(task)).status == "running"
        os.close(last)
        assert (await daemon.runtime.wait(task)).status == 0
        assert await asyncio.gather(*readers) == [b"first second third", b"done\n"]
        await daemon.runtime.delete(task)

    with_daemon(body)


def test_exec_with_fifos(make_bundle: MakeBundle, with_daemon: Any, make_process: Any, fifos: Fifos) -> None:
    bundle = make_bundle("execio", "sleep", "1000")

    async def body(daemon: Any) -> None:
        runtime = daemon.runtime
        task = await daemon.create(bundle)
        await runtime.start(task)
        out = fifos.reader("stdout")
        await runtime.exec(task, "e", make_process("tr", "a-z", "A-Z"), fifos.stdio(stderr=""))
        await runtime.start(task, "e")
        fifos.paths["stdin"].write_text("shout")
        await runtime.close_stdin(task, "e")
        assert (await runtime.wait(task, "e")).status == 0
        await runtime.delete(task, "e")
        assert await out == b"SHOUT"
        await daemon.end(task)

    with_daemon(body)


def test_a_process_left_behind_does_not_hold_the_output(
    make_bundle: MakeBundle, with_daemon: Any, make_process: Any, fifos: Fifos
) -> None:
    bundle = make_bundle("behind", "sleep", "1000")

    async def body(daemon: Any) -> None:
        runtime = daemon.runtime
        task = await daemon.create(bundle)
        await runtime.start(task)
        out = fifos.reader("stdout")
        process = make_process("sh", "-c", "(sleep 2; echo more; sleep 1000) & echo said")
        await runtime.exec(task, "e", process, fifos.stdio(stdin=""))
        await runtime.start(task, "e")
        assert (await runtime.wait(task, "e")).status == 0
        assert await asyncio.wait_for(out, 5) == b"said\n"
        await asyncio.wait_for(runtime.delete(task, "e"), 2)
        assert len(await runtime.pids(task)) >= 2
        await daemon.end(task)

    with_daemon(body)


def test_big_output_reaches_a_slow_reader_whole(make_bundle: MakeBundle, with_daemon: Any, fifos: Fifos) -> None:
    size = 100 << 20
    bundle = make_bundle("big", "sh", "-c", f"yes 0123456789 | head -c {size}")

    async def body(daemon: Any) -> None:
        task = await daemon.create(bundle, fifos.stdio(stdin="", stderr=""))
        fd = os.open(fifos.paths["stdout"], os.O_RDONLY)

        def read_slowly() -> tuple[int, str]:
            digest, total = hashlib.sha256(), 0
            while data := os.read(fd, 1 << 20):
                digest.update(data)
                total += len(data)
                if total % 50 == 0:
                    time.sleep(0.001)
            return total, digest.hexdigest()

        reading = asyncio.ensure_future(asyncio.to_thread(read_slowly))
        await daemon.runtime.start(task)
        await daemon.runtime.wait(task)
        total, digest = await reading
        os.close(fd)
        await daemon.runtime.delete(task)
        line = b"0123456789\n"
        assert (total, digest) == (size, hashlib.sha256((line * (size // len(line) + 1))[:size]).hexdigest())

    with_daemon(body)


def test_a_fifo_that_nobody_reads_holds_up_nobody(
    make_bundle: MakeBundle, with_daemon: Any, make_process: Any, fifos: Fifos
) -> None:
    bundle = make_bundle("unread", "sh", "-c", "yes")

    async def body(daemon: Any) -> None:
        runtime = daemon.runtime
        task = await daemon.create(bundle, fifos.stdio(stdin=""))
        await runtime.start(task)
        await runtime.exec(task, "e", make_process("true"), Stdio())
        await runtime.start(task, "e")
        assert (await runtime.wait(task, "e")).status == 0
        begun = time.monotonic()
        await daemon.end(task)
        assert time.monotonic() - begun < 2

    with_daemon(body)


def test_output_waits_for_a_reader_that_comes_late(make_bundle: MakeBundle, with_daemon: Any, fifos: Fifos) -> None:
    bundle = make_bundle("late", "sh", "-c", "head -c 150000 /dev/zero")

    async def body(daemon: Any) -> None:
        task = await daemon.create(bundle, fifos.stdio(stdin="", stderr=""))
        fd = os.open(fifos.paths["stdout"], os.O_RDONLY | os.O_NONBLOCK)
        await daemon.runtime.start(task)
        await asyncio.sleep(1.2)  # longer than every deadline that runs before the delete
        out = asyncio.ensure_future(read_to_end(fd))
        assert (await daemon.runtime.wait(task)).status == 0
        await daemon.runtime.delete(task)
        assert len(await out) == 150000

    with_daemon(body)


def test_a_missing_output(make_bundle: MakeBundle, with_daemon: Any, tmp_path: Path) -> None:
    bundle = make_bundle("noout", "true")

    async def body(daemon: Any) -> None:
        with pytest.raises(NotFound, match=r"missing\.fifo"):
            await daemon.create(bundle, Stdio(stdout=str(tmp_path / "missing.fifo")))
        with pytest.raises(InvalidArgument, match="ftp"):
            await daemon.create(bundle, Stdio(stdout="ftp://example"))

    with_daemon(body)


ENTRY = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z) (stdout|stderr) ([FP]) (.*)")


def entries(path: Path) -> list[tuple[bytes, bytes, bytes]]:
    found = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        match = ENTRY.fullmatch(line)
        assert match, line
        found.append((match[2], match[3], match[4]))
    return found


def read_until_line(path: Path, end: bytes) -> None:
    for _ in range(1000):
        if path.exists() and path.read_bytes().endswith(end):
            return
        time.sleep(0.01)
    raise AssertionError(f"{path} has no {end!r}")


def test_cri_log(make_bundle: MakeBundle, with_daemon: Any, tmp_path: Path) -> None:
    long = 40000
    script = f"echo one; echo two >&2; sleep 0.1; echo; head -c {long} /dev/zero | tr '\\0' x; echo; printf end"
    bundle = make_bundle("cri", "sh", "-c", script)
    log = tmp_path / "logs"
    log.mkdir()

    async def body(daemon: Any) -> None:
        uri = f"cri://{log}"
        task = await daemon.create(bundle, Stdio(stdout=uri, stderr=uri))
        await daemon.runtime.start(task)
        await daemon.runtime.wait(task)
        await daemon.runtime.delete(task)

    with_daemon(body)
    written = entries(log / "0.log")
    assert (b"stderr", b"F", b"two") in written
    out = [(tag, content) for stream, tag, content in written if stream == b"stdout"]
    assert out[0] == (b"F", b"one")
    assert out[1] == (b"F", b"")
    assert out[-1] == (b"P", b"end")
    assert [tag for tag, _ in out[2:-1]] == [b"P"] * (len(out) - 4) + [b"F"]
    assert b"".join(content for _, content in out[2:-1]) == b"x" * long
    assert max(len(content) for _, content in out) <= 16 << 10


def test_cri_log_rotation_loses_and_tears_nothing(make_bundle: MakeBundle, with_daemon: Any, tmp_path: Path) -> None:
    bundle = make_bundle("rotate", "sh", "-c", "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done")
    log = tmp_path / "c.log"

    async def body(daemon: Any) -> None:
        uri = f"cri://{log}?size=20000&files=30"
        task = await daemon.create(bundle, Stdio(stdout=uri, stderr=uri))
        await daemon.runtime.start(task)
        await daemon.runtime.wait(task)
        await daemon.runtime.delete(task)
        bad = Stdio(stdout="cri:///x?sice=3")
        with pytest.raises(InvalidArgument, match="sice"):
            await daemon.create(bundle, bad)

    with_daemon(body)
    files = sorted(tmp_path.glob("c.log*"), key=lambda path: int(path.suffix[1:]) if path.suffix != ".log" else 0)
    assert len(files) > 5
    assert all(path.stat().st_size <= 20000 for path in files)
    lines = [content for path in reversed(files) for _, _, content in entries(path)]
    assert lines == [b"line %d" % number for number in range(3000)]


def test_cri_log_keeps_as_many_files_as_asked_and_reopens(
    make_bundle: MakeBundle, with_daemon: Any, tmp_path: Path
) -> None:
    script = "i=0; while [ $i -lt 1000 ]; do echo line $i; i=$((i+1)); done; read x; echo after"
    bundle = make_bundle("reopen", "sh", "-c", script)
    log = tmp_path / "c.log"
    fifo = tmp_path / "stdin"
    os.mkfifo(fifo)

    async def body(daemon: Any) -> None:
        uri = f"cri://{log}?size=5000&files=3"
        task = await daemon.create(bundle, Stdio(stdin=str(fifo), stdout=uri, stderr=uri))
        await daemon.runtime.start(task)
        await asyncio.to_thread(read_until_line, log, b"line 999\n")
        assert sorted(path.name for path in tmp_path.glob("c.log*")) == ["c.log", "c.log.1", "c.log.2"]
        log.rename(tmp_path / "moved")
        await daemon.runtime.reopen_logs(task)
        fifo.write_text("go\n")
        await daemon.runtime.wait(task)
        await daemon.runtime.delete(task)
        assert [content for _, _, content in entries(log)] == [b"after"]

    with_daemon(body)


@pytest.mark.parametrize("scheme", ["cri", "file"])
def test_much_output_into_a_file(make_bundle: MakeBundle, with_daemon: Any, tmp_path: Path, scheme: str) -> None:
    size = 20 << 20
    bundle = make_bundle("much", "sh", "-c", f"yes 0123456789 | head -c {size}")
    log = tmp_path / "much.log"

    async def body(daemon: Any) -> None:
        task = await daemon.create(bundle, Stdio(stdout=f"{scheme}://{log}"))
        await daemon.runtime.start(task)
        await daemon.runtime.wait(task)
        await daemon.runtime.delete(task)

    with_daemon(body)
    line = b"0123456789"
    written = log.read_bytes().split(b"\n")
    if scheme == "cri":
        written = [entry.split(b" ", 3)[3] for entry in written[:-1]]
        assert len(written) == size // 11 + (size % 11 > 0)
        assert set(written) == {line, (line + b"\n")[: size % 11]}
    else:
        assert log.stat().st_size == size
        assert set(written) == {line, line[: size % 11]}


def test_a_logger_binary(make_bundle: MakeBundle, with_daemon: Any, tmp_path: Path) -> None:
    bundle = make_bundle("logger", "sh", "-c", "echo to stdout; echo to stderr >&2")
    out = tmp_path / "logged"
    logger = tmp_path / "logger-binary"
    logger.write_text(
        f"#!/bin/sh\nexec 5>&-\n(cat <&3; echo) > {out}.1 &\ncat <&4 > {out}.2\nwait\n"
        f"echo $CONTAINER_NAMESPACE $CONTAINER_ID $* > {out}.3\n"
    )
    logger.chmod(0o755)

    async def body(daemon: Any) -> None:
        uri = f"binary://{logger}?-tag=x&y"
        task = await daemon.create(bundle, Stdio(stdout=uri, stderr=uri))
        await daemon.runtime.start(task)
        await daemon.runtime.wait(task)
        await daemon.runtime.delete(task)
        assert Path(f"{out}.1").read_text() == "to stdout\n\n"
        assert Path(f"{out}.2").read_text() == "to stderr\n"
        assert Path(f"{out}.3").read_text() == "imtest logger -tag x y\n"
        failing = Stdio(stdout="binary:///bin/false")
        with pytest.raises(FailedPrecondition, match=r"/bin/false ended with status 1"):
            await daemon.create(bundle, failing)
        with pytest.raises(NotFound, match="no/such"):
            await daemon.create(bundle, Stdio(stdout="binary:///no/such"))

    with_daemon(body)


def test_terminal(make_bundle: MakeBundle, with_daemon: Any, fifos: Fifos) -> None:
    bundle = make_bundle("tty", "sh", "-c", "test -t 0 && stty size; read x; stty size; cat; exit 4", terminal=True)

    async def body(daemon: Any) -> None:
        runtime = daemon.runtime
        out = os.open(fifos.paths["stdout"], os.O_RDONLY | os.O_NONBLOCK)
        task = await daemon.create(bundle, fifos.stdio(stderr="", terminal=True))
        await runtime.resize(task, 100, 40)
        await runtime.start(task)
        assert b"40 100\r\n" in await read_until(out, b"40 100\r\n")
        await runtime.resize(task, 33, 22)
        fifos.paths["stdin"].write_text("go\n")
        assert b"22 33\r\n" in await read_until(out, b"22 33\r\n")
        fifos.paths["stdin"].write_text("hello\n")
        await read_until(out, b"hello\r\n")
        await runtime.close_stdin(task)
        assert (await runtime.wait(task)).status == 4
        os.close(out)
        await runtime.delete(task)
        assert not list(bundle.glob("*.console"))

    with_daemon(body)


def test_exec_on_a_terminal(make_bundle: MakeBundle, with_daemon: Any, make_process: Any, fifos: Fifos) -> None:
    bundle = make_bundle("exectty", "sleep", "1000")

    async def body(daemon: Any) -> None:
        runtime = daemon.runtime
        task = await daemon.create(bundle)
        await runtime.start(task)
        with pytest.raises(FailedPrecondition, match="terminal"):
            await runtime.resize(task, 1, 1)
        out = fifos.reader("stdout")
        process = make_process("sh", "-c", "tty; exit 6", terminal=True)
        await runtime.exec(task, "e", process, fifos.stdio(stderr="", terminal=True))
        await runtime.start(task, "e")
        assert (await runtime.wait(task, "e")).status == 6
        assert (await out).startswith(b"/dev/pts/")
        await runtime.delete(task, "e")
        await daemon.end(task)

    with_daemon(body)


def test_attach_as_source_and_sinks(make_bundle: MakeBundle, with_daemon: Any, tmp_path: Path) -> None:
    bundle = make_bundle("attach", "sh", "-c", "cat; echo err >&2")
    log = tmp_path / "c.log"

    async def body(daemon: Any) -> None:
        runtime = daemon.runtime
        uri = f"cri://{log}"
        task = await daemon.create(bundle, Stdio(stdin="attach://", stdout=uri, stderr=uri))
        (stdin, give), (out, stdout), (err, stderr) = os.pipe(), os.pipe(), os.pipe()
        await runtime.attach(task, (stdin, stdout, stderr), hold=True)
        for fd in (stdin, stdout, stderr):
            assert os.get_blocking(fd)
            os.close(fd)
        readers = [asyncio.ensure_future(read_to_end(fd)) for fd in (out, err)]
        await runtime.start(task)
        os.write(give, b"hello\n" * 1000)
        os.close(give)
        assert (await runtime.wait(task)).status == 0
        assert await asyncio.gather(*readers) == [b"hello\n" * 1000, b"err\n"]
        with pytest.raises(FailedPrecondition, match="stdin"):
            await runtime.attach(await plain(daemon), (0, -1, -1))
        await runtime.delete(task)
        assert [content for stream, _, content in entries(log) if stream == b"stdout"] == [b"hello"] * 1000

    async def plain(daemon: Any) -> Any:
        task = await daemon.create(make_bundle("plain", "sleep", "1000"))
        await daemon.runtime.start(task)
        plains.append(task)
        return task

    plains: list[Any] = []

    async def with_end(daemon: Any) -> None:
        await body(daemon)
        for task in plains:
            await daemon.end(task)

    with_daemon(with_end)


@pytest.mark.parametrize("sort", ["pipe", "socket", "file"])
def test_output_for_attach_alone_waits_for_it(
    make_bundle: MakeBundle, with_daemon: Any, make_process: Any, tmp_path: Path, sort: str
) -> None:
    bundle = make_bundle("alone", "sleep", "1000")

    async def body(daemon: Any) -> None:
        runtime = daemon.runtime
        task = await daemon.create(bundle)
        await runtime.start(task)
        process = make_process("sh", "-c", "head -c 300000 /dev/zero")
        await runtime.exec(task, "e", process, Stdio(stdout="attach://"))
        await runtime.start(task, "e")
        ours, theirs = -1, -1
        if sort == "pipe":
            ours, theirs = os.pipe()
        elif sort == "socket":
            ours, theirs = (end.detach() for end in socket.socketpair())
        else:
            theirs = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT, 0o600)
        await runtime.attach(task, (-1, theirs, -1), "e", hold=True)
        os.close(theirs)
        got = await asyncio.to_thread(drain, ours) if ours >= 0 else -1
        assert (await runtime.wait(task, "e")).status == 0
        await runtime.delete(task, "e")
        assert (got if ours >= 0 else (tmp_path / "out").stat().st_size) == 300000
        await daemon.end(task)

    with_daemon(body)


def drain(fd: int) -> int:
    total = 0
    while data := os.read(fd, 65536):
        total += len(data)
    os.close(fd)
    return total


def test_a_full_attached_sink_delays_only_who_is_held(
    make_bundle: MakeBundle, with_daemon: Any, tmp_path: Path
) -> None:
    bundle = make_bundle("full", "sh", "-c", "yes | head -c 300000")
    log = tmp_path / "c.log"

    async def body(daemon: Any) -> None:
        task = await daemon.create(bundle, Stdio(stdout=f"cri://{log}"))
        read, write = os.pipe()
        await daemon.runtime.attach(task, (-1, write, -1))
        os.close(write)
        await daemon.runtime.start(task)
        assert (await daemon.runtime.wait(task)).status == 0
        await daemon.runtime.delete(task)
        assert 0 < drain(read) < 300000
        assert len(entries(log)) == 150000

    with_daemon(body)


def test_attach_to_a_terminal_with_a_terminal(make_bundle: MakeBundle, with_daemon: Any) -> None:
    bundle = make_bundle("ttytty", "sh", terminal=True)

    async def body(daemon: Any) -> None:
        runtime = daemon.runtime
        stdio = Stdio(stdin="attach://", stdout="attach://", terminal=True)
        task = await daemon.create(bundle, stdio)
        ours, theirs = pty.openpty()
        tty.setraw(theirs)
        await runtime.attach(task, (theirs, theirs, -1))
        os.close(theirs)
        await runtime.start(task)
        os.write(ours, b"echo $((6*7))\n")
        assert b"\r\n42\r\n" in await read_until(ours, b"42\r\n")
        os.close(ours)  # a user who goes away ends nothing
        assert (await runtime.state(task)).status == "running"
        ours, theirs = pty.openpty()
        tty.setraw(theirs)
        await runtime.attach(task, (theirs, theirs, -1))
        os.close(theirs)
        os.write(ours, b"exit 8\n")
        assert (await runtime.wait(task)).status == 8
        await runtime.delete(task)
        os.close(ours)

    with_daemon(body)


def test_ten_thousand_lines_of_input_that_nobody_reads(make_bundle: MakeBundle, with_daemon: Any, fifos: Fifos) -> None:
    bundle = make_bundle("deaf", "sleep", "1000")

    async def body(daemon: Any) -> None:
        task = await daemon.create(bundle, Stdio(stdin="attach://"))
        await daemon.runtime.start(task)
        read, write = os.pipe()
        await daemon.runtime.attach(task, (read, -1, -1))
        os.close(read)
        os.set_blocking(write, False)
        refused = 0
        while refused < 100:  # the shim takes what fits into the process's pipe and its own chunk, then no more
            try:
                os.write(write, b"x" * 4096)
            except BlockingIOError:
                refused += 1
                await asyncio.sleep(0.001)
        begun = time.monotonic()
        await daemon.runtime.kill(task, signal.SIGKILL)
        await daemon.runtime.wait(task)
        await daemon.runtime.delete(task)
        assert time.monotonic() - begun < 2
        os.close(write)

    with_daemon(body)
