"""Streams alone: real FIFOs, whose other ends the test plays, at the moments where bytes could get lost."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from intermodal import FailedPrecondition
from intermodal._reactor import Reactor
from intermodal._stdio import Stdio

WAIT = 10


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    reactor = Reactor()
    yield reactor
    reactor.close()
    reactor.close()


def _stdio(reactor: Reactor, base: Path, *, limit: int | None = None, terminal: bool = False) -> Stdio:
    return Stdio(reactor, str(base), stdin=True, terminal=terminal, limit=limit)


def _write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def test_an_end_before_connected_is_none(reactor: Reactor, tmp_path: Path) -> None:
    stdio = _stdio(reactor, tmp_path)
    _write(stdio.stdout_path, b"early ")
    assert stdio.read().result(WAIT) == ("stdout", b"early ")
    waiting = stdio.read()
    assert not stdio.finished.done()
    with open(stdio.stdout_path, "wb") as out, open(stdio.stderr_path, "wb"):
        stdio.connected()
        out.write(b"late")
    assert waiting.result(WAIT) == ("stdout", b"late")
    assert stdio.read().result(WAIT) is None
    stdio.finished.result(WAIT)
    stdio.close()
    reactor.close()
    assert list(tmp_path.iterdir()) == []


def test_input_waits_for_a_reader_and_ends_after_all_of_it(reactor: Reactor, tmp_path: Path) -> None:
    stdio = _stdio(reactor, tmp_path, terminal=True)
    data = os.urandom(1 << 20)
    written, ended = stdio.write(data), stdio.end_input()
    with open(stdio.stdout_path, "wb"):
        stdio.connected()
        with open(stdio.stdin_path, "rb") as reader:
            assert reader.read() == data
        written.result(WAIT)
        ended.result(WAIT)
        with pytest.raises(FailedPrecondition, match="ended"):
            stdio.write(b"x").result(WAIT)
        stdio.end_input().result(WAIT)
    stdio.close()


def test_input_that_nobody_takes_any_more(reactor: Reactor, tmp_path: Path) -> None:
    stdio = _stdio(reactor, tmp_path, terminal=True)
    with open(stdio.stdout_path, "wb"):
        stdio.connected()
        reader = os.open(stdio.stdin_path, os.O_RDONLY)
        stuck = stdio.write(b"x" * (1 << 20))
        os.read(reader, 1)
        os.close(reader)
        with pytest.raises(FailedPrecondition, match="closed its standard input"):
            stuck.result(WAIT)
    stdio.close()


def test_the_end_of_the_process_ends_its_input(reactor: Reactor, tmp_path: Path) -> None:
    stdio = _stdio(reactor, tmp_path, terminal=True)
    with open(stdio.stdout_path, "wb"):
        stdio.connected()
        pending, ended = stdio.write(b"x"), stdio.end_input()
    ended.result(WAIT)
    with pytest.raises(FailedPrecondition, match="has ended"):
        pending.result(WAIT)
    stdio.close()


def test_a_reader_that_gives_up_takes_nothing(reactor: Reactor, tmp_path: Path) -> None:
    stdio = _stdio(reactor, tmp_path)
    given_up = stdio.read()
    with pytest.raises(TimeoutError):
        given_up.result(0.01)
    assert given_up.cancel()
    _write(stdio.stdout_path, b"whole")
    assert stdio.read().result(WAIT) == ("stdout", b"whole")
    stdio.close()


def test_reading_ahead_stops_at_the_limit(reactor: Reactor, tmp_path: Path) -> None:
    stdio = _stdio(reactor, tmp_path, limit=1, terminal=True)
    total = 1 << 20
    writer = threading.Thread(target=_write, args=(stdio.stdout_path, b"x" * total))
    writer.start()
    writer.join(0.2)
    assert writer.is_alive()  # the FIFO is full, and one chunk is read ahead
    stdio.connected()
    size = 0
    while (chunk := stdio.read().result(WAIT)) is not None:
        size += len(chunk.data)
    writer.join(WAIT)
    assert size == total
    stdio.close()


def test_reading_all_lifts_the_limit(reactor: Reactor, tmp_path: Path) -> None:
    stdio = _stdio(reactor, tmp_path, limit=1, terminal=True)
    writer = threading.Thread(target=_write, args=(stdio.stdout_path, b"x" * (1 << 20)))
    writer.start()
    stdio.read_all()
    writer.join(WAIT)
    assert not writer.is_alive()
    stdio.connected()
    stdio.finished.result(WAIT)
    assert stdio.take() == (b"x" * (1 << 20), b"")
    stdio.close()


def test_closing_ends_who_waits_and_removes_everything(reactor: Reactor, tmp_path: Path) -> None:
    stdio = _stdio(reactor, tmp_path)
    waiting, pending = stdio.read(), stdio.write(b"x")
    stdio.close()
    stdio.close()
    assert waiting.result(WAIT) is None
    with pytest.raises(FailedPrecondition):
        pending.result(WAIT)
    stdio.finished.result(WAIT)
    before = set(os.listdir("/proc/self/fd"))
    reactor.close()
    assert list(tmp_path.iterdir()) == []
    assert len(set(os.listdir("/proc/self/fd"))) < len(before)
    with pytest.raises(FailedPrecondition, match="client is closed"):
        stdio.read()
    stdio.close()


def test_a_directory_that_cannot_be_used(reactor: Reactor, tmp_path: Path) -> None:
    from intermodal import NotFound

    with pytest.raises(NotFound, match="FIFOs"):
        _stdio(reactor, tmp_path / "absent")
