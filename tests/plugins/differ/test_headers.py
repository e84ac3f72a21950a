"""The headers that we write are read by Python's tarfile, by GNU tar and by our own reader, as what they were meant to be."""

from __future__ import annotations

import io
import subprocess
import tarfile
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from intermodal_tar.headers import header
from intermodal_tar.tarstream import TarReader

NAMES = st.binary(min_size=1, max_size=300).map(lambda raw: raw.replace(b"\0", b"_").strip(b"/") or b"x")
TIMES = st.integers(-(10**18), 8 * 10**18)
IDS = st.one_of(st.integers(0, 10), st.integers(0, 2**32 - 2))


@settings(max_examples=200, deadline=None)
@given(
    name=NAMES, link=NAMES, mode=st.integers(0, 0o7777), uid=IDS, gid=IDS, mtime=TIMES, value=st.binary(max_size=1200)
)
def test_what_is_written_is_read(
    name: bytes, link: bytes, mode: int, uid: int, gid: int, mtime: int, value: bytes
) -> None:
    records = {b"SCHILY.xattr.user.k": value} if value else {}
    data = header(name, b"2", mode, uid, gid, 0, mtime, link, records=records) + bytes(1024)
    (ours,) = list(TarReader(iter([data])))
    assert (ours.name, ours.link, ours.mode, ours.uid, ours.gid, ours.mtime) == (name, link, mode, uid, gid, mtime)
    assert (ours.xattrs or {}).get(b"user.k", b"") == value
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape") as tar:
        (theirs,) = tar.getmembers()
    told = (theirs.name.encode("utf-8", "surrogateescape"), theirs.mode, theirs.uid, theirs.gid)
    assert told == (name.rstrip(b"/"), mode, uid, gid)
    assert abs(theirs.mtime - mtime / 1e9) < 1


def test_gnu_tar_reads_it(tmp_path: Any) -> None:
    long = b"d/" * 80 + "\u00fcber".encode()
    data = b"".join(
        [
            header(b"plain", b"0", 0o640, 3, 4, 5, 1_700_000_000_123_456_789) + b"12345" + bytes(507),
            header(long, b"5", 0o755, 3_000_000, 4, 0, 5_000_000_000),
            header(b"link", b"1", 0o640, link=b"plain"),
            bytes(1024),
        ]
    )
    listed = subprocess.run(
        ["tar", "--full-time", "--numeric-owner", "--utc", "-tvf", "-"],
        input=data,
        capture_output=True,
        check=True,
        timeout=20,
    ).stdout
    assert b"-rw-r----- 3/4               5 2023-11-14 22:13:20.123456789 plain" in listed
    assert b"3000000/4" in listed
    assert b"link link to plain" in listed
