"""The reader by itself: against tarfile, against what GNU tar and other tools write, and on damaged archives."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from intermodal_core.errors import InvalidArgument
from intermodal_tar.pax import octal, parse_records, time_ns, xattrs_of
from intermodal_tar.tarstream import TarReader
from intermodal_tar.zstd_frames import Frames

Member = tuple[Any, ...]


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def read(data: bytes, size: int = 4096) -> list[Member]:
    reader = TarReader(pieces(data, size))
    found = []
    for entry in reader:
        content = b"".join(iter(lambda: bytes(reader.piece()), b""))
        whole = content
        if entry.sparse is not None:
            file = bytearray(entry.size)
            at = 0
            for offset, length in entry.sparse:
                file[offset : offset + length] = content[at : at + length]
                at += length
            whole = bytes(file)
        name = entry.name.rstrip(b"/")
        found.append((name, entry.kind, entry.mode, entry.uid, entry.gid, entry.size, entry.mtime, entry.link, whole))
    return found


def peers(data: bytes) -> list[Member]:
    """The same by the standard library's tarfile."""
    found = []
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape") as archive:
        for info in archive:
            file = archive.extractfile(info) if info.isreg() else None
            kind = b"0" if info.isreg() else info.type
            if "mtime" in info.pax_headers:
                mtime = time_ns(info.pax_headers["mtime"].encode())
            else:
                mtime = int(info.mtime) * 10**9
            name, link = (text.encode("utf-8", "surrogateescape") for text in (info.name, info.linkname))
            link = link if kind in b"12" else b""
            size = info.size if kind == b"0" else 0
            content = file.read() if file else b""
            found.append((name, kind, info.mode & 0o7777, info.uid, info.gid, size, mtime, link, content))
    return found


TEXT = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=60)
PATHS = st.lists(TEXT, min_size=1, max_size=6).map("/".join).filter(lambda path: path.strip(" "))


@st.composite
def archives(draw: Any) -> bytes:
    buffer = io.BytesIO()
    format = draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for _ in range(draw(st.integers(0, 5))):
            info = tarfile.TarInfo(draw(PATHS))
            info.type = draw(
                st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, b"6"])
            )
            if info.type in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                info.linkname = draw(PATHS)
            data = draw(st.binary(max_size=2000)) if info.isreg() else b""
            info.size = len(data)
            info.mode = draw(st.integers(0, 0o7777))
            info.uid, info.gid = draw(st.integers(0, 2**32 - 2)), draw(st.integers(0, 2**32 - 2))
            info.mtime = draw(st.integers(0, 2**40))
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=archives(), size=st.integers(1, 3000))
def test_reads_what_tarfile_writes(data: bytes, size: int) -> None:
    assert read(data, size) == peers(data)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    data=archives(),
    changes=st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(0, 255)), max_size=4),
    cut=st.integers(0, 1 << 30),
)
def test_damage_is_an_error_by_meaning_or_harmless(data: bytes, changes: Any, cut: int) -> None:
    damaged = bytearray(data)
    for at, value in changes:
        damaged[at % len(damaged)] = value
    if changes and cut % 3 == 0:
        del damaged[cut % len(damaged) :]
    try:
        read(bytes(damaged), 700)
    except InvalidArgument:
        pass


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    fields=st.binary(min_size=356, max_size=356),
    flag=st.sampled_from(list(b"01234567LKxgSV\0DMNXA")),
    body=st.binary(max_size=1500),
)
def test_any_header_whose_checksum_holds(fields: bytes, flag: int, body: bytes) -> None:
    header = bytearray(fields.ljust(512, b"\0"))
    header[156] = flag
    header[257:265] = b"ustar\x0000"
    header[124:136] = b"%011o\0" % len(body)
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 256)
    try:
        for entry in read(bytes(header) + body + bytes(-len(body) % 512 + 1024)):
            assert entry[5] >= 0
    except InvalidArgument:
        pass


def gnu_tar(directory: Path, *options: str) -> bytes:
    command = ["tar", "-C", str(directory), "--sort=name", *options, "-cf", "-", "."]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=60).stdout


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "d").mkdir(parents=True)
    (top / "d" / "small").write_bytes(b"small")
    (top / "d" / ("long " * 40)).write_bytes(b"x" * 513)
    (top / "d" / "link").symlink_to("very/" * 60 + "far")
    os.link(top / "d" / "small", top / "hard")
    os.mkfifo(top / "fifo")
    with open(top / "sparse", "wb") as file:
        for at in range(60):
            file.seek(at * 100_000)
            file.write(b"data %d" % at)
        file.truncate(7_000_000)
    (top / "hole").touch()
    os.truncate(top / "hole", 1 << 20)
    os.utime(top / "d" / "small", ns=(1, 1_600_000_000_123_456_789))
    os.setxattr(top / "hard", "user.key", b"value\n=\xff")
    return top


@pytest.mark.parametrize(
    "options",
    [
        ["--format=gnu"],
        ["--format=oldgnu"],
        ["--format=posix"],
        ["--format=posix", "--xattrs"],
        ["--format=gnu", "--sparse"],
        ["--format=posix", "--sparse", "--sparse-version=0.0"],
        ["--format=posix", "--sparse", "--sparse-version=0.1"],
        ["--format=posix", "--sparse", "--sparse-version=1.0"],
    ],
)
@pytest.mark.parametrize("size", [511, 1 << 20])
def test_reads_what_gnu_tar_writes(tree: Path, options: list[str], size: int) -> None:
    data = gnu_tar(tree, *options)
    found = {member[0].removeprefix(b"./"): member for member in read(data, size)}
    assert len(found) == 9
    assert found[b"sparse"][8] == (tree / "sparse").read_bytes()
    assert found[b"hole"][8] == bytes(1 << 20)
    assert found[b"d/small"][1:2] + found[b"d/small"][8:] == (b"0", b"small")
    assert found[b"hard"][1] == b"1"
    assert found[b"d/link"][7] == os.readlink(os.fsencode(tree / "d/link"))
    assert found[b"d/" + b"long " * 40][5] == 513
    exact = "--format=posix" in options
    assert found[b"d/small"][6] == 1_600_000_000_000_000_000 + (123_456_789 if exact else 0)
    assert [member[:7] for member in found.values()] == [member[:7] for member in peers(data)]


def test_extended_attributes_of_gnu_tar(tree: Path) -> None:
    entries = list(TarReader([gnu_tar(tree, "--format=posix", "--xattrs")]))
    assert {b"user.key": b"value\n=\xff"} in [entry.xattrs for entry in entries]


def test_v7_and_ustar(tree: Path) -> None:
    (tree / "d" / ("long " * 40)).unlink()
    (tree / "d" / "link").unlink()
    prefix = "p" * 90 + "/" + "q" * 50
    (tree / prefix).mkdir(parents=True)
    (tree / prefix / "file").write_bytes(b"far")
    data = gnu_tar(tree, "--format=ustar")
    assert read(data) == peers(data)
    assert b"./" + prefix.encode() + b"/file" in [member[0] for member in read(data)]
    (tree / "fifo").unlink()
    data = gnu_tar(tree, "--format=v7", "--exclude=p*")
    assert read(data) == peers(data)


def test_numbers() -> None:
    assert octal(b"0000644\0") == octal(b"   644 \0") == octal(b"644\0junk"[:4]) == 0o644
    assert octal(bytes(8)) == octal(b"        ") == 0
    assert octal(b"\x80" + bytes(6) + b"\x07") == 7
    assert octal(b"\x80" + (1 << 80).to_bytes(11, "big")) == 1 << 80
    assert octal(b"\xff" * 12) == -1
    for wrong in (b"0000648\0", b"-1\0", b"1_0", b"0o17", b"+7", b"1 7"):
        with pytest.raises(ValueError, match="octal"):
            octal(wrong)


def test_times() -> None:
    assert time_ns(b"1") == 10**9
    assert time_ns(b"1.5") == 1_500_000_000
    assert time_ns(b"1.1234567899") == 1_123_456_789
    assert time_ns(b"-1.5") == -1_500_000_000
    assert time_ns(b"-0.0000000001") == -1
    for wrong in (b"", b"x", b"1e3", b"--1", b"1.x", b"9" * 40):
        with pytest.raises(ValueError, match="time"):
            time_ns(wrong)


def test_records() -> None:
    assert parse_records(b"11 key=a=b\n") == {b"key": b"a=b"}
    assert parse_records(b"6 a=b\n" + bytes(20)) == {b"a": b"b"}
    for wrong in (b"5 a=b\n", b"7 a=b\n", b"a=b\n", b"6 a b\n", b"99999999999999999999 a=b\n", b"6 a=bx", b"-6 a=b\n"):
        with pytest.raises(ValueError, match="record"):
            parse_records(wrong)
    found = xattrs_of({b"LIBARCHIVE.xattr.user.a%20b": b"dmFsdWU", b"SCHILY.xattr.user.c": b"\0\n", b"path": b"x"})
    assert found == {b"user.a b": b"value", b"user.c": b"\0\n"}


def test_global_headers() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"mtime": "7.5"}) as archive:
        archive.addfile(tarfile.TarInfo("a"))
        own = tarfile.TarInfo("b")
        own.pax_headers = {"mtime": "8.5"}
        archive.addfile(own)
    assert [member[6] for member in read(buffer.getvalue())] == [7_500_000_000, 8_500_000_000]


def test_zstd_frames_in_any_pieces() -> None:
    import zstandard

    plain = os.urandom(300_000) + b"\0" * 500_000
    frame = zstandard.ZstdCompressor(write_checksum=True).compress(plain)
    other = zstandard.ZstdCompressor(write_content_size=False).compress(b"abc" * 1000)
    data = frame + b"\x5f\x2a\x4d\x18\x03\0\0\0xyz" + other
    ends = {0, len(frame), len(frame) + 11, len(data)}
    for size in (1, 7, 1000, len(data)):
        frames = Frames()
        at = 0
        for piece in pieces(data, size):
            frames.feed(piece)
            at += len(piece)
            assert frames.complete == (at in ends)
    with pytest.raises(ValueError, match="after the last"):
        Frames().feed(b"not a frame at all")
