"""System calls, each seen from outside: what it did, its error, and the step that it tells of."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from intermodal_core import syscalls


def child(code: str) -> str:
    """What Python prints in a process of its own, which these calls change for good."""
    script = f"import os, sys\nfrom intermodal_core.syscalls import *\nfrom intermodal_core import syscalls\n{code}"
    return subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=30).stdout


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
def test_namespaces_and_mounts(tmp_path: Path) -> None:
    seen = child(f"""
steps = []
sys.addaudithook(lambda name, args: steps.append(args[0]) if name == "intermodal.step" else None)
before = os.readlink("/proc/self/ns/net"), os.open("/proc/self/ns/net", os.O_RDONLY)
unshare(CLONE_NEWNS | CLONE_NEWNET)
assert os.readlink("/proc/self/ns/net") != before[0]
setns(before[1], CLONE_NEWNET)
assert os.readlink("/proc/self/ns/net") == before[0]
mount("", "/", "", MS_REC | MS_PRIVATE)
mount("tmpfs", {str(tmp_path)!r}, "tmpfs", MS_NOSUID, "size=1m")
assert os.path.ismount({str(tmp_path)!r})
os.mkdir({str(tmp_path / "old")!r})
umount({str(tmp_path)!r}, MNT_DETACH)
mount("tmpfs", {str(tmp_path)!r}, "tmpfs")
os.chdir({str(tmp_path)!r})
pivot_root(".", ".")
umount(".", MNT_DETACH)
assert os.listdir("/") == []
print(*steps)
""")
    assert seen.split() == ["unshare", "setns", "mount", "mount", "umount", "mount", "pivot_root", "umount"]


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
def test_privileges() -> None:
    seen = child("""
prctl(PR_SET_NO_NEW_PRIVS, 1)
prctl(PR_SET_CHILD_SUBREAPER, 1)
prctl(PR_CAPBSET_DROP, 21)
capset(1 << 38 | 1, 1 << 38 | 3, 0)
print(open("/proc/self/status").read())
""")
    fields = dict(line.split(":\t", 1) for line in seen.splitlines() if ":\t" in line)
    assert fields["NoNewPrivs"] == "1"
    assert int(fields["CapEff"], 16) == 1 << 38 | 1
    assert int(fields["CapPrm"], 16) == 1 << 38 | 3
    assert int(fields["CapInh"], 16) == 0
    assert not int(fields["CapBnd"], 16) & 1 << 21


def test_errors_name_the_path(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent") as caught:
        syscalls.umount(str(tmp_path / "absent"))
    assert caught.value.errno in (errno.ENOENT, errno.EPERM)
    with pytest.raises(OSError, match="Bad file descriptor"):
        syscalls.setns(-1)
    with pytest.raises(OSError, match="Invalid argument"):
        syscalls.prctl(-1)
