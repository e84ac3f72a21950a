"""Specs of ours, run by the real runc on a busybox root."""

import contextlib
import glob
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from intermodal_oci import mounts
from intermodal_oci.spec import SpecOptions, build_process, build_spec

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="runc needs root here"),
    pytest.mark.skipif(shutil.which("runc") is None, reason="runc is not installed"),
]

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def command(*argv: str, timeout: float = 60) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.fixture
def name() -> str:
    return f"oci-test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def run(rootfs: Path, name: str) -> Iterator[Run]:
    """Run a command in a container to its end; afterwards neither a cgroup nor a mount may be left."""
    bundle = rootfs.parent
    state = bundle.parent / "state"

    def run(script: str, **options: object) -> "subprocess.CompletedProcess[str]":
        spec = build_spec(
            SpecOptions(
                args=("sh", "-c", script),
                rootfs=str(rootfs),
                cgroups_path=f"/{name}",
                **options,  # type: ignore[arg-type]
            )
        )
        (bundle / "config.json").write_text(json.dumps(spec))
        return command("runc", "--root", str(state), "run", "--bundle", str(bundle), name)

    yield run
    command("runc", "--root", str(state), "delete", "--force", name)
    assert glob.glob(f"/sys/fs/cgroup/**/{name}", recursive=True) == []
    assert str(bundle) not in Path("/proc/self/mountinfo").read_text()


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", "uid=0(root) gid=0(root) groups=0(root),10(wheel)"),
        ("user", "uid=1000(user) gid=1001(users) groups=10(wheel),50(staff),1001(users)"),
        ("4321:99", "uid=4321 gid=99 groups=99"),
    ],
)
def test_users(run: Run, user: str, expected: str) -> None:
    done = run("id", user=user)
    assert done.stderr == ""
    head, groups = done.stdout.strip().split(" groups=")
    assert head == expected.split(" groups=")[0]
    assert set(groups.split(",")) == set(expected.split(" groups=")[1].split(","))


def test_the_usual_confinement(run: Run) -> None:
    done = run(
        "grep -E '^(Cap(Bnd|Inh|Amb)|NoNewPrivs|Seccomp):' /proc/self/status; pwd; hostname; ls /dev; "
        "echo x > /proc/sys/kernel/hostname; cat /proc/kcore | head -c 1; touch /sys/x; exit 7",
        hostname="inside",
        cwd="/home/user",
    )
    assert done.returncode == 7
    lines = done.stdout.split("\n")
    status = dict(line.split(":\t") for line in lines[:5])
    assert int(status["CapBnd"], 16) & ~0xA80425FB == 0
    assert (int(status["CapInh"], 16), int(status["CapAmb"], 16)) == (0, 0)
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert lines[5:7] == ["/home/user", "inside"]
    assert {"null", "zero", "urandom", "pts", "shm", "mqueue"} <= set(lines[7:])
    assert done.stderr.count("Read-only file system") == 2


@pytest.mark.parametrize(
    "attempt", ["unshare -m true", "unshare -U true", "mount -t tmpfs x /tmp", "mount -o remount,rw /sys"]
)
def test_seccomp_refuses_namespaces_and_mounts(run: Run, attempt: str) -> None:
    # With every capability but those that bring the calls: it is seccomp that refuses.
    done = run(attempt, add_capabilities=("ALL",))
    allowed = done.returncode == 0
    done = run(attempt)
    assert done.returncode != 0
    assert "ermi" in done.stderr  # "Operation not permitted" or "permission denied"
    assert allowed


def test_without_seccomp_a_user_namespace_is_possible(run: Run) -> None:
    assert run("unshare -U true", seccomp=False, user="1000").returncode == 0
    assert run("unshare -U true", user="1000").returncode != 0


def test_privileged(run: Run) -> None:
    assert run("mount -t tmpfs x /tmp && touch /tmp/y", privileged=True).stderr == ""


def test_memory_and_cpu_limits(run: Run) -> None:
    done = run(
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || "
        "{ cat /sys/fs/cgroup/memory.max; cat /sys/fs/cgroup/cpu.max; }",
        memory=64 << 20,
        cpus=0.5,
    )
    assert done.stderr == ""
    assert done.stdout.split()[:2] == [str(64 << 20), "50000"]


@pytest.mark.skipif(len(Path("/proc/swaps").read_text().splitlines()) > 1, reason="this machine swaps instead")
def test_a_process_over_its_memory_is_killed(run: Run) -> None:
    # tail keeps what it has no line end for.
    done = run("head -c 200000000 /dev/zero | busybox tail -n 1 > /dev/null; exit $?", memory=16 << 20)
    assert done.returncode == 137


def test_binds(run: Run, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_text("hello\n")
    script = "cat /mnt/ro/file; touch /mnt/rw/new; touch /mnt/ro/bad; stat -c %a /mnt"
    volumes = tuple(mounts.parse_volume(f"{tmp_path}/data:/mnt/{end}") for end in ("rw", "ro:ro"))
    done = run(script, mounts=volumes)
    assert done.stdout.startswith("hello\n")
    assert (tmp_path / "data/new").exists()
    assert not (tmp_path / "data/bad").exists()
    assert "Read-only file system" in done.stderr


def test_read_only_root_and_networks(run: Run) -> None:
    done = run("touch /x; ls /sys/class/net", readonly=True)
    assert "Read-only file system" in done.stderr
    assert "lo" in done.stdout.split()
    host = run("stat -L -c %i /proc/self/ns/net", network="host")
    assert int(host.stdout) == os.stat("/proc/self/ns/net").st_ino
    own = run("stat -L -c %i /proc/self/ns/net")
    assert int(own.stdout) != os.stat("/proc/self/ns/net").st_ino


ORDINARY = """
import asyncio, ctypes, fcntl, mmap, multiprocessing, os, select, signal, socket, sqlite3, subprocess, tempfile, threading
thread = threading.Thread(target=lambda: None); thread.start(); thread.join()
assert subprocess.run(["/bin/true"]).returncode == 0
assert os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)[1] == 0
pid = os.fork()
if pid == 0:
    os._exit(3)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
a, b = socket.socketpair(); a.send(b"x"); assert b.recv(1) == b"x"
for family in (socket.AF_INET, socket.AF_UNIX, socket.AF_NETLINK):
    socket.socket(family, socket.SOCK_DGRAM).close()
select.epoll().close(); os.memfd_create("m"); os.pidfd_open(os.getpid()); os.getrandom(4); os.sched_yield()
mmap.mmap(-1, 4096).close()
with tempfile.NamedTemporaryFile(dir="/tmp") as file:
    fcntl.flock(file, fcntl.LOCK_EX); os.fsync(file.fileno()); os.posix_fallocate(file.fileno(), 0, 9)
    os.chown(file.name, 1, 1); os.chmod(file.name, 0o600); os.utime(file.name, (1, 1)); os.sendfile(b.fileno(), file.fileno(), 0, 1)
db = sqlite3.connect("/tmp/db"); db.execute("pragma journal_mode=wal"); db.execute("create table t (x)"); db.commit()
signal.setitimer(signal.ITIMER_REAL, 60); multiprocessing.Lock()
async def main():
    await (await asyncio.create_subprocess_exec("/bin/true")).wait()
asyncio.run(main())
libc = ctypes.CDLL(None, use_errno=True)
assert libc.personality(ctypes.c_ulong(0xFFFFFFFF)) == 0
try:
    socket.socket(40, socket.SOCK_STREAM)
except PermissionError:
    print("ran")
"""


def test_ordinary_programs_run_under_the_profile(run: Run, tmp_path: Path) -> None:
    (tmp_path / "ordinary.py").write_text(ORDINARY)
    prefix = os.path.realpath(sys.base_prefix)
    paths = [path for path in ("/usr", "/lib", "/lib64") if os.path.isdir(path)]
    paths += [] if prefix.startswith("/usr") else [prefix]
    volumes = [mounts.parse_volume(f"{path}:{path}:ro") for path in paths]
    volumes.append(mounts.parse_volume(f"{tmp_path}/ordinary.py:/ordinary.py:ro"))
    python = f"{prefix}/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    done = run(f"exec {python} -I /ordinary.py", mounts=tuple(volumes))
    assert (done.stdout, done.stderr, done.returncode) == ("ran\n", "", 0)


def test_exec(rootfs: Path, name: str, tmp_path: Path) -> None:
    bundle, state = rootfs.parent, tmp_path / "state"
    runc = ("runc", "--root", str(state))
    spec = build_spec(SpecOptions(args=("cat",), rootfs=str(rootfs), cgroups_path=f"/{name}", env=("A=1",)))
    (bundle / "config.json").write_text(json.dumps(spec))
    reader, writer = os.pipe()
    with contextlib.ExitStack() as stack:
        stack.callback(command, *runc, "delete", "--force", name)
        stack.callback(os.close, writer)
        subprocess.run(
            [*runc, "run", "--detach", "--bundle", str(bundle), name],
            stdin=reader,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
            timeout=60,
        )
        os.close(reader)
        process = build_process(
            spec, ["sh", "-c", "id -u; echo $A $B; pwd"], user="user", cwd="/tmp", env=["B=2"], rootfs=str(rootfs)
        )
        (tmp_path / "process.json").write_text(json.dumps(process))
        done = command(*runc, "exec", "--process", str(tmp_path / "process.json"), name)
        assert (done.stdout, done.stderr, done.returncode) == ("1000\n1 2\n/tmp\n", "", 0)
    assert glob.glob(f"/sys/fs/cgroup/**/{name}", recursive=True) == []
