"""The journal's laws: what is read is what was appended; a torn tail loses the tail alone; a hole is never hidden."""

import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from intermodal_core.errors import DataLoss, OutOfRange
from intermodal_core.journal import Cursor, Event, Journal

BOOT = bytes(16)


def make(directory: Path, max_bytes: int = 32 << 20, max_events: int = 200_000, boot_id: bytes = BOOT) -> Journal:
    return Journal(directory, max_bytes, max_events, boot_id=boot_id)


def batch(journal: Journal, count: int, size: int = 10) -> list[Event]:
    first = journal.next
    return [Event(n, f"id{n}", n, "ns", "/t", "url", bytes(size)) for n in range(first, first + count)]


def read(journal: Journal, after: int = 0) -> list[Event]:
    cursor = journal.cursor(after)
    events: list[Event] = []
    while part := cursor.read():
        events += part
    cursor.close()
    return events


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 5)), max_size=15), st.integers(0, 100))
@settings(max_examples=60, deadline=None)
def test_before_is_the_number_before_the_first_not_older(steps: list[tuple[int, int]], when: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        journal = make(Path(directory), max_bytes=64_000)
        times: list[int] = []
        now = 1
        for count, later in steps:
            now += later
            events = [msgspec.structs.replace(event, timestamp=now) for event in batch(journal, count, size=100)]
            journal.append(events)
            times += [now] * count
        kept = [time for number, time in enumerate(times, 1) if number >= journal.oldest]
        older = sum(time < when for time in kept)
        assert journal.before(when) == journal.oldest - 1 + older
        journal.close()


def drain(cursor: Cursor) -> None:
    while cursor.read():
        pass


@given(st.lists(st.integers(1, 30), max_size=20), st.integers(0, 10**6), st.booleans())
@settings(max_examples=60, deadline=None)
def test_replay_is_what_was_appended(sizes: list[int], pick: int, reopen: bool) -> None:
    with tempfile.TemporaryDirectory() as directory:
        journal = make(Path(directory), max_bytes=64_000)  # segments of 2,000 bytes
        everything: list[Event] = []
        for size in sizes:
            events = batch(journal, size)
            journal.append(events)
            everything += events
            if reopen:
                journal.close()
                journal = make(Path(directory), max_bytes=64_000)
        assert journal.newest == len(everything)
        after = pick % (len(everything) + 1)
        assert read(journal, after) == everything[after:]
        journal.close()


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.integers(0, 10**6), st.binary(max_size=30))
@settings(max_examples=80, deadline=None)
def test_torn_tail_loses_the_tail_alone(sizes: list[int], cut: int, rubbish: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        journal = make(Path(directory))
        ends: list[tuple[int, int]] = []
        for size in sizes:
            journal.append(batch(journal, size))
            ends.append((journal.size, journal.newest))
        journal.close()
        [path] = Path(directory).iterdir()
        whole = path.read_bytes()
        at = cut % (len(whole) + 1)
        path.write_bytes(whole[:at] + rubbish)
        journal = make(Path(directory))
        kept = max((newest for size, newest in ends if size <= at), default=0)
        assert [event.sequence for event in read(journal, journal.oldest - 1)][:kept] == list(range(1, kept + 1))
        if not whole[:at].startswith(whole[:40]) or whole[: len(whole[:at] + rubbish)] != whole[:at] + rubbish:
            assert journal.newest == kept
        events = batch(journal, 3)
        journal.append(events)
        assert read(journal, events[0].sequence - 1) == events
        journal.close()


def test_bounded_by_bytes(tmp_path: Path) -> None:
    journal = make(tmp_path, max_bytes=100_000)
    for _ in range(2000):
        journal.append(batch(journal, 1, 100))
    assert 80_000 < journal.size <= 100_000
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == journal.size
    assert [event.sequence for event in read(journal, journal.oldest - 1)] == list(range(journal.oldest, 2001))
    with pytest.raises(OutOfRange, match=f"the oldest is {journal.oldest};"):
        journal.cursor(journal.oldest - 2)


def test_bounded_by_events(tmp_path: Path) -> None:
    journal = make(tmp_path, max_events=320)
    for _ in range(2000):
        journal.append(batch(journal, 1))
    assert 300 <= 2000 - journal.oldest + 1 <= 320
    journal.close()
    journal = make(tmp_path, max_events=320)
    for _ in range(20):
        journal.append(batch(journal, 1))
    assert 300 <= 2020 - journal.oldest + 1 <= 320


def test_what_has_not_happened_is_out_of_range(tmp_path: Path) -> None:
    journal = make(tmp_path)
    assert (journal.oldest, journal.newest) == (1, 0)
    assert read(journal, 0) == []
    with pytest.raises(OutOfRange, match="not happened yet"):
        journal.cursor(1)
    with pytest.raises(OutOfRange):
        journal.cursor(-1)


def test_cursor_goes_on_as_more_is_appended(tmp_path: Path) -> None:
    journal = make(tmp_path, max_bytes=64_000)
    cursor = journal.cursor(0)
    for _ in range(200):
        events = batch(journal, 2)
        journal.append(events)
        assert cursor.read() == events
        assert cursor.read() == []


def test_cursor_that_was_overtaken(tmp_path: Path) -> None:
    journal = make(tmp_path, max_bytes=64_000)
    journal.append(batch(journal, 1))
    cursor = journal.cursor(0)
    assert len(cursor.read()) == 1
    for _ in range(1000):
        journal.append(batch(journal, 10))
    with pytest.raises(OutOfRange, match=f"oldest is {journal.oldest}"):
        drain(cursor)


def test_numbers_lost_to_a_power_failure_are_not_given_again(tmp_path: Path) -> None:
    journal = make(tmp_path)
    journal.append(batch(journal, 5))
    journal.close()
    journal = make(tmp_path, boot_id=b"x" * 16)
    assert journal.newest == 5
    assert journal.next > 1_000_000
    events = batch(journal, 2)
    journal.append(events)
    assert [event.sequence for event in read(journal, 0)] == [1, 2, 3, 4, 5, events[0].sequence, events[1].sequence]
    journal.close()
    journal = make(tmp_path, boot_id=b"x" * 16)
    assert journal.next == events[1].sequence + 1


def test_segment_that_was_never_begun(tmp_path: Path) -> None:
    """Killed between making the file and writing its head: nothing is lost, and numbers go on."""
    journal = make(tmp_path)
    journal.append(batch(journal, 5))
    journal.close()
    (tmp_path / f"{6:020d}.events").write_bytes(b"IMEV")
    for _ in range(2):
        journal = make(tmp_path)
        assert len(read(journal)) == 5
        assert journal.next == 6
        journal.close()
    journal = make(tmp_path)
    journal.append(batch(journal, 1))
    assert [event.sequence for event in read(journal)] == [1, 2, 3, 4, 5, 6]


def test_name_alone_carries_the_numbering_on(tmp_path: Path) -> None:
    (tmp_path / f"{60:020d}.events").touch()
    for _ in range(2):
        journal = make(tmp_path)
        assert (journal.oldest, journal.next) == (60, 60)
        journal.close()


def test_damage_in_the_middle_is_data_loss(tmp_path: Path) -> None:
    journal = make(tmp_path, max_bytes=64_000)
    for _ in range(100):
        journal.append(batch(journal, 2))
    first = min(tmp_path.iterdir())
    data = bytearray(first.read_bytes())
    data[-3] ^= 1
    first.write_bytes(data)
    cursor = journal.cursor(0)
    with pytest.raises(DataLoss, match="damaged"):
        drain(cursor)


@pytest.fixture
def small_files() -> Iterator[None]:
    """Writes past 3,000 bytes of a file fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_disk_that_fails_leaves_no_hidden_hole(tmp_path: Path, small_files: None) -> None:
    journal = make(tmp_path)
    written = batch(journal, 5)
    journal.append(written)
    cursor = journal.cursor(0)
    assert cursor.read() == written
    behind = journal.cursor(2)
    lost = batch(journal, 1, 4000)
    journal.append(lost)
    assert journal.oldest == 7
    for reader in (cursor, behind):
        with pytest.raises(OutOfRange):
            reader.read()
    with pytest.raises(OutOfRange):
        journal.cursor(5)
    events = batch(journal, 2)
    journal.append(events)
    assert read(journal, 6) == events
    assert cursor is not behind
    journal.close()
    journal = make(tmp_path)
    assert journal.oldest == 7
    assert read(journal, 6) == events


def test_killed_while_appending(tmp_path: Path) -> None:
    """SIGKILL at some instant: all that was reported as appended is there, in order, and numbering goes on."""
    code = (
        "import sys, os; from pathlib import Path; from intermodal_core.journal import *\n"
        "journal = Journal(Path(sys.argv[1]), max_bytes=1 << 20)\n"
        "while True:\n"
        "    events = [Event(journal.next + n, '', 0, 'ns', '/t', 'u', bytes(50)) for n in range(7)]\n"
        "    journal.append(events)\n"
        "    os.write(1, b'%d\\n' % journal.newest)\n"
    )
    newest = 0
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(2000):
                reported = int(process.stdout.readline())
            process.kill()
            process.stdout.read()
        journal = Journal(tmp_path, max_bytes=1 << 20)
        assert journal.newest >= reported > newest
        newest = journal.newest
        numbers = [event.sequence for event in read(journal, journal.oldest - 1)]
        assert numbers == list(range(journal.oldest, newest + 1))
        journal.close()


def test_one_write_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = make(tmp_path)
    journal.append(batch(journal, 1))
    calls: list[int] = []
    write = os.write

    def counted(fd: int, data: bytes) -> int:
        calls.append(fd)
        return write(fd, data)

    monkeypatch.setattr(os, "write", counted)
    journal.append(batch(journal, 500))
    assert len(calls) == 1


def test_what_is_to_be_synced(tmp_path: Path) -> None:
    journal = make(tmp_path, max_bytes=64_000)
    assert journal.unsynced() == []
    for _ in range(40):
        journal.append(batch(journal, 10))
    segments = sorted(tmp_path.iterdir())
    fds = journal.unsynced()
    assert {os.readlink(f"/proc/self/fd/{fd}") for fd in fds} == {str(tmp_path), *map(str, segments)}
    for fd in fds:
        os.close(fd)
    [fd] = journal.unsynced()
    assert os.readlink(f"/proc/self/fd/{fd}") == str(segments[-1])
    os.close(fd)
    for _ in range(2000):
        journal.append(batch(journal, 10))
    before = len(os.listdir("/proc/self/fd"))
    journal.close()
    assert 0 < before - len(os.listdir("/proc/self/fd")) < 20
