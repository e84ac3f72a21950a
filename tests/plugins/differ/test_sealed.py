"""Whatever a layer holds, nothing outside of its directory is read, written or run, and nothing remains."""

from __future__ import annotations

import os
import signal
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest
from intermodal_core.contracts.common import Descriptor, Mount
from intermodal_core.errors import (
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    IntermodalError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
    Unimplemented,
)
from intermodal_tar.differ import TarDiffer

PLAIN = "application/vnd.oci.image.layer.v1.tar"


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/../evil", "..", "a/b/../../../evil", "./../evil"])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE])
def test_names_that_climb_out(lab: Any, name: str, kind: bytes) -> None:
    top, mount = lab.directory()
    with pytest.raises(InvalidArgument, match="climbs out"):
        lab.apply(lab.tar(lab.entry(name, kind, linkname="x")), [mount])
    assert not (lab.top / "evil").exists()
    assert list(top.iterdir()) == []


@pytest.mark.parametrize("name", ["../evil/.wh.x", "../.wh.victim", "a/../../.wh..wh..opq"])
def test_whiteouts_that_climb_out(lab: Any, name: str) -> None:
    victim = lab.top / "victim"
    victim.mkdir()
    _, mount = lab.directory()
    with pytest.raises(InvalidArgument):
        lab.apply(lab.tar(lab.entry(name)), [mount])
    assert victim.exists()


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "a/.wh..."])
def test_whiteouts_of_nothing(lab: Any, name: str) -> None:
    _, mount = lab.directory()
    with pytest.raises(InvalidArgument):
        lab.apply(lab.tar(lab.entry("a/b"), lab.entry(name)), [mount])


@pytest.mark.parametrize("target", ["../outside", "/../outside", "a/../../outside"])
def test_hard_links_outward(lab: Any, target: str) -> None:
    (lab.top / "outside").write_text("secret")
    _, mount = lab.directory()
    with pytest.raises(InvalidArgument, match="climbs out"):
        lab.apply(lab.tar(lab.entry("link", tarfile.LNKTYPE, linkname=target)), [mount])


def test_a_hard_link_through_a_link_stays_inside(lab: Any) -> None:
    outside = lab.top / "outside"
    outside.write_text("secret")
    top, mount = lab.directory()
    layer = lab.tar(
        lab.entry("up", tarfile.SYMTYPE, linkname=str(lab.top)),
        lab.entry("link", tarfile.LNKTYPE, linkname="up/outside"),
    )
    with pytest.raises(InvalidArgument, match="not there"):
        lab.apply(layer, [mount])
    assert outside.stat().st_nlink == 1
    assert not (top / "link").exists()


@pytest.mark.parametrize("target", ["/etc", "../../../../etc", "../../proc/self/root/etc", "/proc/self/cwd/../etc"])
def test_links_outward_are_content_and_lead_inside(lab: Any, target: str) -> None:
    name = f"escaped-{os.getpid()}"
    top, mount = lab.directory()
    lab.apply(
        lab.tar(lab.entry("down/link", tarfile.SYMTYPE, linkname=target), lab.entry(f"down/link/{name}")), [mount]
    )
    assert os.readlink(top / "down/link") == target
    assert not Path("/etc", name).exists()
    assert [path.name for path in top.rglob(name)] == [name]


def test_a_link_replaced_while_it_is_in_use(lab: Any) -> None:
    top, mount = lab.directory()
    layer = lab.tar(
        lab.entry("d", tarfile.DIRTYPE),
        lab.entry("d/first"),
        lab.entry("d", tarfile.SYMTYPE, linkname="/etc"),
        lab.entry("d/second"),
        lab.entry("d", tarfile.SYMTYPE, linkname="other"),
        lab.entry("d/third"),
    )
    lab.apply(layer, [mount])
    assert sorted(str(path.relative_to(top)) for path in top.rglob("*")) == [
        "d",
        "etc",
        "etc/second",
        "other",
        "other/third",
    ]


def test_links_in_circles(lab: Any) -> None:
    _, mount = lab.directory()
    layer = lab.tar(
        lab.entry("a", tarfile.SYMTYPE, linkname="b"), lab.entry("b", tarfile.SYMTYPE, linkname="a"), lab.entry("a/x")
    )
    with pytest.raises(InvalidArgument, match="circles"):
        lab.apply(layer, [mount])


def test_absolute_names_are_below_the_root(lab: Any) -> None:
    top, mount = lab.directory()
    layer = bytearray(lab.tar(lab.entry("xetc/passwd", data=b"mine"), format=tarfile.USTAR_FORMAT))
    layer[0:1] = b"/"
    layer[148:156] = b"%06o\0 " % (sum(layer[:148]) + sum(layer[156:512]) + 256)
    lab.apply(bytes(layer), [mount])
    assert (top / "etc/passwd").read_bytes() == b"mine"


def test_a_file_in_the_way(lab: Any) -> None:
    _, mount = lab.directory()
    with pytest.raises(InvalidArgument, match="no directory"):
        lab.apply(lab.tar(lab.entry("a"), lab.entry("a/b")), [mount])


@pytest.mark.parametrize("name", ["trusted.overlay.opaque", "trusted.x", "user.overlay.redirect"])
def test_attributes_that_speak_to_overlayfs(lab: Any, name: str) -> None:
    _, mount = lab.directory()
    for kind in (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE):
        layer = lab.tar(lab.entry("a", kind, linkname="b", pax_headers={f"SCHILY.xattr.{name}": "y"}))
        with pytest.raises(InvalidArgument, match="extended attribute"):
            lab.apply(layer, [mount])


def test_devices_by_policy(lab: Any) -> None:
    layer = lab.tar(
        lab.entry("dev/null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
        lab.entry("dev/disk", tarfile.BLKTYPE, devmajor=8, devminor=0, mode=0o660, gid=6),
    )
    top, mount = lab.directory()
    lab.apply(layer, [mount])
    assert (top / "dev/null").stat().st_rdev == os.makedev(1, 3)
    assert (top / "dev/disk").stat().st_gid == 6
    strict = TarDiffer(lab.spawner, lab.top / "scratch", devices=False)
    _, mount = lab.directory()
    with pytest.raises(PermissionDenied, match="dev/null"):
        lab.apply(layer, [mount], differ=strict)


def test_poisoned_libraries_are_not_loaded(lab: Any) -> None:
    """Python and C code at every place that an interpreter or a C library might look at, found by a marker if it ran."""
    marker = f"/poisoned-{os.getpid()}"
    code = f"import os\nos.close(os.open({marker!r}, os.O_CREAT | os.O_WRONLY, 0o644))\n".encode()
    names = [
        "sitecustomize.py",
        "usercustomize.py",
        "encodings/__init__.py",
        "encodings/idna.py",
        "encodings/latin_1.py",
    ]
    names += ["codecs.py", "linecache.py", "traceback.py", "zipimport.py", "posixpath.py", "struct.py", "_strptime.py"]
    places = {p.lstrip("/") for p in __import__("sys").path if p.startswith("/") and "work" not in p}
    places |= {"usr/lib/python3/dist-packages", "usr/lib/python3.11", "usr/local/lib/python3.11/site-packages", "."}
    entries = [lab.entry(f"{place}/{name}", data=code) for place in sorted(places) for name in names]
    for place in ("lib", "lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "usr/lib64"):
        libraries = [
            "libnss_files.so.2",
            "libnss_dns.so.2",
            "libgcc_s.so.1",
            "ossl-modules/legacy.so",
            "gconv/UTF-7.so",
        ]
        entries += [lab.entry(f"{place}/{name}", data=b"\x7fELF not really", mode=0o755) for name in libraries]
    entries.append(lab.entry("etc/nsswitch.conf", data=b"passwd: files\ngroup: files\n"))
    entries.append(lab.entry("usr/lib/ssl/openssl.cnf", data=b"openssl_conf = x\n[x]\nproviders = y\n"))
    entries.append(lab.entry("etc/passwd", data=b"root:x:4242:4242::/:/bin/sh\n"))
    entries.append(lab.entry("owned", data=b"", uid=0, uname="root", gname="root"))
    # An error too, which makes messages from whatever Python has for that.
    entries.append(lab.entry("../\N{SNOWMAN}"))
    top, mount = lab.directory()
    with pytest.raises(InvalidArgument, match="climbs out"):
        lab.apply(lab.tar(*entries), [mount])
    assert (top / "owned").stat().st_uid == 0
    assert not (top / marker[1:]).exists()
    assert not Path(marker).exists()


def worker_of(lab: Any, mount: Mount) -> tuple[int, int, threading.Thread, list[Any]]:
    """A worker in the middle of a layer: its pid, the end to feed it by, the thread that waits, and what that raised."""
    read, write = os.pipe()
    raised: list[Any] = []

    def run() -> None:
        try:
            lab.differ.apply(read, Descriptor(PLAIN, "sha256:0", 0), (mount,))
        except IntermodalError as error:
            raised.append(error)
        finally:
            os.close(read)

    thread = threading.Thread(target=run)
    thread.start()
    os.write(write, lab.tar(lab.entry("a", data=b"x" * 1000))[:300])
    waited = threading.Event()
    for _ in range(1000):
        if lab.differ._workers:
            break
        waited.wait(0.005)
    (child,) = lab.differ._workers
    return child.pid, write, thread, raised


def wait_until_sealed(pid: int) -> dict[str, str]:
    pause = threading.Event()
    for _ in range(1000):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        status = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
        if status["NoNewPrivs"] == "1":
            return status
        pause.wait(0.005)
    raise AssertionError("not sealed in time")


def test_the_seal(lab: Any) -> None:
    top, mount = lab.directory()
    pid, write, thread, raised = worker_of(lab, mount)
    try:
        status = wait_until_sealed(pid)
        kept = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 27 | 1 << 31
        for name in ("CapEff", "CapPrm", "CapBnd"):
            assert int(status[name], 16) == kept
        assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
        assert os.stat(f"/proc/{pid}/root").st_ino == top.stat().st_ino
        for namespace in ("mnt", "net", "ipc"):
            assert os.readlink(f"/proc/{pid}/ns/{namespace}") != os.readlink(f"/proc/self/ns/{namespace}")
        mounts = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
        assert [line.split(" ")[4] for line in mounts] == ["/"]
        open_files = {fd: os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
        assert all(open_files[fd] == "/dev/null" for fd in "012")
        rest = [path for fd, path in open_files.items() if fd not in "012"]
        assert sorted(path.partition(":")[0] for path in rest) == ["/", "pipe", "pipe"]
    finally:
        os.close(write)
        thread.join(30)
    assert isinstance(raised[0], InvalidArgument)  # the layer ended there


@pytest.mark.parametrize("overlay", [False, True])
def test_a_worker_that_is_killed(lab: Any, overlay: bool) -> None:
    _, mount = lab.overlay(lab.directory()[0], lab.directory()[0]) if overlay else lab.directory()
    pid, write, thread, raised = worker_of(lab, mount)
    os.kill(pid, signal.SIGKILL)
    thread.join(30)
    os.close(write)
    assert isinstance(raised[0], Unavailable)
    assert not Path(f"/proc/{pid}").exists()


def test_kills_at_any_moment(lab: Any) -> None:
    """From before the first system call to after the last one; the `lab` fixture then looks for what was left."""
    layer = lab.tar(*(lab.entry(f"d{i % 7}/f{i}", data=b"x" * 500) for i in range(300)))
    pause = threading.Event()
    kinds = set()
    for step in range(40):
        _, mount = lab.overlay(lab.directory()[0], lab.directory()[0])
        outcome: list[str] = []

        def run(mount: Mount = mount, outcome: list[str] = outcome) -> None:
            try:
                lab.apply(layer, [mount])
                outcome.append("applied")
            except IntermodalError as error:
                outcome.append(type(error).__name__)

        thread = threading.Thread(target=run)
        thread.start()
        while thread.is_alive() and not lab.differ._workers:
            pause.wait(0.0005)
        pause.wait(step * 0.0004)
        for child in list(lab.differ._workers):
            child.kill()
        thread.join(30)
        assert not thread.is_alive()
        kinds.add(outcome[0])
    assert kinds <= {"applied", "Unavailable"}
    assert "Unavailable" in kinds


def test_a_layer_that_never_ends(lab: Any) -> None:
    differ = TarDiffer(lab.spawner, lab.top / "scratch", timeout=0.2)
    _, mount = lab.directory()
    read, write = os.pipe()
    try:
        with pytest.raises(DeadlineExceeded):
            differ.apply(read, Descriptor(PLAIN, "sha256:0", 0), (mount,))
        assert not differ._workers
    finally:
        os.close(read)
        os.close(write)


def test_closing_cancels(lab: Any) -> None:
    _, mount = lab.directory()
    pid, write, thread, raised = worker_of(lab, mount)
    lab.differ.close()
    thread.join(30)
    os.close(write)
    assert isinstance(raised[0], Cancelled)
    assert not Path(f"/proc/{pid}").exists()


def test_wrong_requests(lab: Any) -> None:
    layer = lab.tar(lab.entry("a"))
    top, mount = lab.directory()
    with pytest.raises(Unimplemented):
        lab.apply(layer, [mount], media_type="application/vnd.oci.image.layer.v1.tar+lzma")
    with pytest.raises(InvalidArgument):
        lab.apply(layer, [])
    with pytest.raises(NotFound):
        lab.apply(layer, [Mount("bind", str(lab.top / "missing"), ("rbind",))])
    with pytest.raises(FailedPrecondition, match="read-only"):
        lab.apply(layer, [Mount("bind", str(top), ("rbind", "ro"))])
    assert list(top.iterdir()) == []
