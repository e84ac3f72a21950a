"""Id-mapped mounts: what owners are seen, what is written, and what is refused. Each in a process with one thread."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from intermodal_core.contracts.common import Mount
from intermodal_core.errors import InvalidArgument
from intermodal_snapshots.idmapped import host_id, parse_mapping, split_mapping, unmapped
from intermodal_snapshots.mounts import mount_all, mounts_below, unmount_all

MAP = ("uidmap=0:100000:65536", "gidmap=0:200000:65536")

CHILD = """
import errno, sys
from intermodal_core.contracts.common import Mount
from intermodal_snapshots import mounts
type, source, target, old, *options = sys.argv[1:]
if old == "old":
    real = mounts._mount_from
    def refuses_detached(here, *rest):
        if here.startswith("/proc/self/fd/"):
            raise OSError(errno.EINVAL, "a detached mount")
        real(here, *rest)
    mounts._mount_from = refuses_detached
mounts.mount_all([Mount(type, source, tuple(options))], target)
"""


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    mount_all([Mount("tmpfs", "tmpfs", ("size=64m",))], tmp_path)
    for name in ("lower/1/fs", "lower/2/fs", "upper", "work", "merged"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "lower/1/fs/one").write_text("1")
    (tmp_path / "lower/2/fs/two").write_text("2")
    os.chown(tmp_path / "lower/2/fs/two", 1000, 1001)
    yield tmp_path
    unmount_all(tmp_path)
    assert mounts_below(tmp_path) == []


def mount(type: str, source: object, target: Path, *options: str, kernel: str = "") -> str:
    """Mount it; the last line of what went wrong."""
    command = [sys.executable, "-c", CHILD, type, str(source), str(target), kernel, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stderr.strip().rpartition("\n")[2]


def owners(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid


def overlay(memory: Path, layers: int = 2) -> tuple[str, ...]:
    lower = ":".join(f"{memory}/lower/{number}/fs" for number in range(layers, 0, -1))
    return f"workdir={memory}/work", f"upperdir={memory}/upper", f"lowerdir={lower}", *MAP


@pytest.mark.parametrize("kernel", ["", "old"])
def test_lower_layers_are_seen_with_mapped_owners(memory: Path, kernel: str) -> None:
    """Also as before Linux 6.15, which refuses layers of a detached mount."""
    before = len(mounts_below("/"))
    assert mount("overlay", "overlay", memory / "merged", *overlay(memory), kernel=kernel) == ""
    assert len(mounts_below("/")) == before + 1
    assert owners(memory / "merged/one") == (100000, 200000)
    assert owners(memory / "merged/two") == (101000, 201001)
    with (memory / "merged/one").open("a") as file:
        file.write("more")
    assert owners(memory / "upper/one") == (100000, 200000)  # what is written has the host's ids
    assert owners(memory / "lower/1/fs/one") == (0, 0)
    assert (memory / "lower/1/fs/one").read_text() == "1"


def test_one_layer_and_hundreds(memory: Path) -> None:
    assert mount("overlay", "overlay", memory / "merged", *overlay(memory, 1)) == ""
    assert owners(memory / "merged/one") == (100000, 200000)
    unmount_all(memory / "merged")
    for number in range(3, 300):
        (memory / f"lower/{number}/fs").mkdir(parents=True)
        (memory / f"lower/{number}/fs/file-{number}").touch()
    assert mount("overlay", "overlay", memory / "merged", *overlay(memory, 299)) == ""
    assert len(os.listdir(memory / "merged")) == 299
    assert owners(memory / "merged/file-299") == (100000, 200000)


def test_a_bind_is_mapped_both_ways(memory: Path) -> None:
    assert mount("bind", memory / "lower/2/fs", memory / "merged", "rbind", "rw", *MAP) == ""
    assert owners(memory / "merged/two") == (101000, 201001)
    with pytest.raises(OSError, match="too large"):
        (memory / "merged/new").touch()  # the host's root is nobody in the container
    os.chown(memory / "merged/two", 100005, 200005)
    assert owners(memory / "lower/2/fs/two") == (5, 5)
    unmount_all(memory / "merged")
    assert mount("bind", memory / "lower/2/fs", memory / "merged", "rbind", "ro", *MAP) == ""
    with pytest.raises(OSError, match="Read-only"):
        (memory / "merged/more").touch()


def test_what_cannot_be_mapped_is_refused_and_leaves_nothing(memory: Path) -> None:
    before = mounts_below("/")
    assert "only of bind and overlay" in mount("tmpfs", "tmpfs", memory / "merged", *MAP)
    assert "both uidmap= and gidmap=" in mount("bind", memory / "upper", memory / "merged", MAP[0])
    assert "cannot be mapped" in mount("bind", "/proc/self", memory / "merged", *MAP)
    assert mounts_below("/") == before


def test_mappings_are_read_and_refused() -> None:
    mapping = parse_mapping("0:1000:1,1:100000:65535")
    assert mapping == ((0, 1000, 1), (1, 100000, 65535))
    assert [host_id(mapping, inside) for inside in (0, 1, 65535)] == [1000, 100000, 165534]
    with pytest.raises(InvalidArgument, match="lacks 65536"):
        host_id(mapping, 65536)
    for wrong in ("", "0", "0:1", "0:1:0", "a:1:2", "0:1:2:3", "0:-1:2", "0:1:2,"):
        with pytest.raises(InvalidArgument, match="no mapping of ids"):
            parse_mapping(wrong)
    assert split_mapping(("ro", *MAP)) == (("ro",), (((0, 100000, 65536),), ((0, 200000, 65536),)))
    assert split_mapping(("ro",)) == (("ro",), None)
    assert unmapped([Mount("bind", "/a", ("ro", *MAP))]) == [Mount("bind", "/a", ("ro",))]
