"""What layers hold, and what is wrong with some of them."""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest
import zstandard
from intermodal_core.contracts.common import Mount
from intermodal_core.contracts.differs import ApplyLimits, Differ
from intermodal_core.errors import InvalidArgument, ResourceExhausted
from intermodal_tar.differ import TarDiffer
from intermodal_tar.plugin import Config, plugin

OCI = "application/vnd.oci.image.layer.v1.tar"
DOCKER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
SKIPPABLE = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"12345"


def sha(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def zst(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


def _in_frames(data: bytes) -> bytes:
    return SKIPPABLE + zst(data[:700]) + SKIPPABLE + zst(data[700:]) + SKIPPABLE


@pytest.fixture
def small(lab: Any) -> bytes:
    return bytes(lab.tar(lab.entry("a", data=os.urandom(5000)), lab.entry("b", data=b"text" * 9000)))


@pytest.mark.parametrize(
    ("media_type", "form"),
    [
        (OCI, bytes),
        (OCI + "+gzip", gzip.compress),
        (OCI + "+gzip", lambda data: gzip.compress(data[:700]) + gzip.compress(data[700:]) + bytes(512)),
        (OCI + "+zstd", zst),
        (OCI + "+zstd", _in_frames),
        (DOCKER, gzip.compress),
        (DOCKER, bytes),
        (DOCKER, zst),
        (OCI, lambda data: data + b"what follows the end counts for the digest"),
        (OCI + "+gzip", lambda data: gzip.compress(data.rstrip(b"\0").ljust(42 * 1024, b"\0"))),
    ],
)
def test_compressions_and_digests(lab: Any, small: bytes, media_type: str, form: Any) -> None:
    top, mount = lab.directory()
    data = form(small)
    applied = lab.apply(data, [mount], media_type)
    assert (applied.source_digest, applied.source_size) == (sha(data), len(data))
    if not small.startswith(data[:1000]):
        assert applied.size >= 41 * 1024
    else:
        assert (applied.diff_id, applied.size) == (sha(data), len(data))
    assert (top / "b").read_bytes() == b"text" * 9000


def test_the_diff_id_is_of_the_uncompressed_form(lab: Any, small: bytes) -> None:
    for media_type, data in ((OCI + "+gzip", gzip.compress(small)), (OCI + "+zstd", zst(small))):
        _, mount = lab.directory()
        applied = lab.apply(data, [mount], media_type)
        assert (applied.diff_id, applied.size) == (sha(small), len(small))


@pytest.mark.parametrize("cut", [1, 3, 10, 100, 1000, -1, -4, -8, -9, -600])
@pytest.mark.parametrize("form", ["+gzip", "+zstd", ""])
def test_truncated(lab: Any, small: bytes, form: str, cut: int) -> None:
    data = {"+gzip": gzip.compress(small), "+zstd": zst(small), "": small[:42000]}[form]
    _, mount = lab.directory()
    with pytest.raises(InvalidArgument, match=r"truncat|first bytes|lone block"):
        lab.apply(data[:cut], [mount], OCI + form)


@pytest.mark.parametrize("form", ["+gzip", "+zstd"])
def test_flipped_bits(lab: Any, small: bytes, form: str) -> None:
    data = gzip.compress(small) if form == "+gzip" else zst(small)
    for at in (40, 5000, len(data) - 300, len(data) - 2):
        damaged = bytearray(data)
        damaged[at] ^= 0x10
        _, mount = lab.directory()
        with pytest.raises(InvalidArgument):
            lab.apply(bytes(damaged), [mount], OCI + form)


@pytest.mark.parametrize(
    ("media_type", "form"),
    [
        (OCI + "+gzip", bytes),
        (OCI + "+gzip", zst),
        (OCI + "+zstd", gzip.compress),
        (OCI, gzip.compress),
        (OCI + "+gzip", lambda data: gzip.compress(data) + b"garbage after the end"),
        (OCI + "+zstd", lambda data: zst(data) + b"garbage after the end"),
        (OCI + "+gzip", lambda data: gzip.compress(b"no tar archive, but long enough to be a header of one" * 40)),
        (OCI, lambda data: b"\0" * 512 + data),
        (OCI, lambda data: data[:512] + data[1024:]),
    ],
)
def test_lying(lab: Any, small: bytes, media_type: str, form: Any) -> None:
    _, mount = lab.directory()
    with pytest.raises(InvalidArgument):
        lab.apply(form(small), [mount], media_type)


def test_the_message_tells_offset_and_entry(lab: Any) -> None:
    _, mount = lab.directory()
    data = lab.tar(lab.entry("first", data=b"x" * 600), lab.entry("second", data=b"y" * 600))
    with pytest.raises(InvalidArgument, match=r"offset 2100 .*'second'"):
        lab.apply(data[:2100], [mount])


def test_empty_layers(lab: Any) -> None:
    for data in (b"", bytes(512), bytes(1024), bytes(10240)):
        top, mount = lab.directory()
        before = lab.listing(top)
        assert lab.apply(data, [mount]).diff_id == sha(data)
        assert lab.listing(top) == before


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (ApplyLimits(bytes=100_000), "100000 bytes"),
        (ApplyLimits(files=3), "3 entries"),
        (ApplyLimits(depth=3), "deeper than 3"),
    ],
)
def test_limits(lab: Any, limits: ApplyLimits, words: str) -> None:
    layer = lab.tar(*(lab.entry(f"d/d/d/d{i}/f", data=b"x" * 30_000) for i in range(4)))
    _, mount = lab.directory()
    lab.apply(layer, [mount])
    _, mount = lab.directory()
    with pytest.raises(ResourceExhausted, match=words):
        lab.apply(layer, [mount], limits=limits)


def test_bombs(lab: Any) -> None:
    info, _ = lab.entry("big")
    info.size = 3 << 30
    header = info.tobuf(tarfile.PAX_FORMAT)
    bomb = zstandard.ZstdCompressor(level=3)
    parts = [bomb.compress(header)]
    parts += [bomb.compress(bytes(16 << 20))] * 192
    _, mount = lab.directory()
    with pytest.raises(ResourceExhausted, match="2000 times"):
        lab.apply(b"".join(parts), [mount], OCI + "+zstd")
    # Sparse files of great size count with what they seem to hold.
    sparse = lab.tar(
        lab.entry("s", pax_headers={"GNU.sparse.map": "", "GNU.sparse.size": str(1 << 50), "GNU.sparse.name": "s"})
    )
    with pytest.raises(ResourceExhausted):
        lab.apply(sparse, [mount])


def test_a_full_disk(lab: Any) -> None:
    tmpfs = Mount("tmpfs", "tmpfs", ("size=1m",))
    with pytest.raises(ResourceExhausted, match="big"):
        lab.apply(lab.tar(lab.entry("big", data=bytes(2 << 20))), [tmpfs])


def test_deep_and_long_names(lab: Any) -> None:
    deep = "/".join(["d" * 7] * 500)
    _, mount = lab.directory()
    lab.apply(lab.tar(lab.entry(deep + "/f", data=b"deep")), [mount])
    for name in ("x" * 256, "/".join(["y" * 200] * 30) + "/f"):
        with pytest.raises(InvalidArgument):
            lab.apply(lab.tar(lab.entry(name)), [mount])
    # More directories than may be open at a time, each visited twice.
    many = [f"{i % 900}/{j}" for j in range(2) for i in range(900)]
    top, mount = lab.directory()
    lab.apply(lab.tar(*(lab.entry(name) for name in many)), [mount])
    assert len(list(top.rglob("[01]"))) == 1800 + 2


def test_attributes(lab: Any) -> None:
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    layer = lab.tar(
        lab.entry("d", tarfile.DIRTYPE, mode=0o3775, uid=5, gid=6, mtime=1.5, pax_headers={"mtime": "11.123456789"}),
        lab.entry("d/suid", data=b"#!", mode=0o6755, uid=7, gid=8, pax_headers={"mtime": "-1.5"}),
        lab.entry("d/plain", data=b"x", mode=0o664),
        lab.entry("d/cap", data=b"x", pax_headers={"SCHILY.xattr.security.capability": capability.decode("latin-1")}),
        lab.entry("d/attr", data=b"x", mode=0o400, pax_headers={"SCHILY.xattr.user.name": "v\u00e4lue"}),
        lab.entry("d/label", data=b"x", pax_headers={"SCHILY.xattr.security.selinux": "system_u:object_r:bin_t:s0"}),
        lab.entry("d/fifo", tarfile.FIFOTYPE, mode=0o620, gid=5),
        lab.entry("d/link", tarfile.SYMTYPE, linkname="plain", uid=70000, gid=70001, mtime=42),
        lab.entry("d/hard", tarfile.LNKTYPE, linkname="d/suid", mode=0o600, mtime=3),
        lab.entry("d/sub", tarfile.DIRTYPE, mode=0o700),
        lab.entry("big ids", uid=3_000_000_000, gid=4_000_000_000, mtime=10_000_000_000),
    )
    top, mount = lab.directory()
    lab.apply(layer, [mount])
    found = lab.listing(top)
    assert found[b"d"][:4] == ("0o43775", 5, 6, 11_123456789)
    assert found[b"d/suid"][:4] == ("0o106755", 7, 8, -1_500_000_000)
    assert found[b"d/hard"][5] == b"d/hard"
    assert (top / "d/hard").samefile(top / "d/suid")
    assert found[b"d/plain"][:3] == ("0o100664", 0, 0)  # the directory's group is not inherited
    assert found[b"d/sub"][:3] == ("0o40700", 0, 0)
    assert found[b"d/cap"][6] == {"security.capability": capability}
    assert found[b"d/attr"][6] == {"user.name": "v\u00e4lue".encode()}
    assert found[b"d/label"][6] == {}
    assert found[b"d/fifo"][:3] == ("0o10620", 0, 5)
    assert found[b"d/link"][1:5] == (70000, 70001, 42 * 10**9, b"plain")
    assert found[b"big ids"][1:4] == (3_000_000_000, 4_000_000_000, 10**19)


def test_names_that_are_not_utf8(lab: Any) -> None:
    names = [b"caf\xe9/\xff\xfe", b"\x01\n\t", "\u00e4\u2603".encode()]
    layer = lab.tar(*(lab.entry(name, data=b"x") for name in names), format=tarfile.GNU_FORMAT)
    top, mount = lab.directory()
    lab.apply(layer, [mount])
    assert set(names) <= set(lab.listing(top))


def test_default_acls_do_not_change_modes(lab: Any) -> None:
    acl = bytes.fromhex("0200000001000700ffffffff04000500ffffffff20000000ffffffff")
    layer = lab.tar(
        lab.entry(
            "d",
            tarfile.DIRTYPE,
            pax_headers={"SCHILY.xattr.system.posix_acl_default": acl.decode("utf-8", "surrogateescape")},
        ),
        lab.entry("d/file", data=b"x", mode=0o666),
        lab.entry("d/sub", tarfile.DIRTYPE, mode=0o777),
    )
    top, mount = lab.directory()
    lab.apply(layer, [mount])
    assert os.getxattr(top / "d", "system.posix_acl_default") == acl
    assert stat.S_IMODE((top / "d/file").stat().st_mode) == 0o666
    assert stat.S_IMODE((top / "d/sub").stat().st_mode) == 0o777


def test_aufs_bookkeeping_is_no_content(lab: Any) -> None:
    layer = lab.tar(
        lab.entry(".wh..wh.plnk", tarfile.DIRTYPE),
        lab.entry(".wh..wh.plnk/1.2"),
        lab.entry(".wh..wh.aufs"),
        lab.entry("a"),
    )
    top, mount = lab.directory()
    lab.apply(layer, [mount])
    assert [path.name for path in top.iterdir()] == ["a"]


def test_applying_onto_several_mounts(lab: Any) -> None:
    root, mount = lab.directory()
    (root / "below").mkdir()
    other, _ = lab.directory("other")
    lab.apply(
        lab.tar(lab.entry("a"), lab.entry("below/b")), [mount, Mount("bind", str(other), ("rbind",), target="/below")]
    )
    assert (root / "a").exists()
    assert (other / "b").exists()
    assert not (root / "below/b").exists()


def test_a_sealed_process_imports_nothing() -> None:
    script = """
import os, sys, tempfile
from intermodal_core.contracts.common import Mount
from intermodal_tar.seal import drop_privileges, enter
top, scratch = sys.argv[1:]
place = enter((Mount("bind", top, ("rbind",)),), scratch)
out = os.dup(1)
drop_privileges([place.root, out])
try:
    import wave
except ImportError as error:
    os.write(out, f"{error}; {os.listdir('/')}".encode())
os._exit(0)
"""
    with tempfile.TemporaryDirectory() as top, tempfile.TemporaryDirectory() as scratch:
        Path(top, "wave.py").write_text("raise SystemExit(3)")
        done = subprocess.run(
            [sys.executable, "-c", script, top, scratch], stdout=subprocess.PIPE, timeout=60, check=True
        )
    assert (
        done.stdout.decode()
        == "wave was not loaded before the worker was sealed, and nothing can be loaded there; ['wave.py']"
    )


def test_sync(lab: Any) -> None:
    differ = TarDiffer(lab.spawner, lab.top / "scratch", sync=True)
    top, mount = lab.directory()
    lab.apply(lab.tar(lab.entry("a", data=b"kept")), [mount], differ=differ)
    assert (top / "a").read_bytes() == b"kept"


def test_the_plugin(lab: Any) -> None:
    assert plugin.forked == ("intermodal_tar.worker",)
    assert Config().devices == "allow"
    assert isinstance(lab.differ, Differ)
    assert OCI + "+gzip" in lab.differ.media_types()
    assert DOCKER in lab.differ.media_types()


def test_an_archive_that_ends_with_its_last_entrys_data(lab: Any) -> None:
    """As umoci writes them: without the padding of the last block, and without the zeros at the end."""
    whole = lab.tar(lab.entry("a", data=b"a" * 700), lab.entry("last", data=b"12345"))
    end = whole.index(b"12345") + 5
    path, mount = lab.directory()
    lab.apply(whole[:end], [mount])
    assert (path / "last").read_bytes() == b"12345"
    for cut in (end - 1, end + 1, end + 100):
        _, mount = lab.directory()
        with pytest.raises(InvalidArgument):
            lab.apply(whole[:cut], [mount])
