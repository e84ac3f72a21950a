"""`make demo`: one image under every runtime and snapshotter that works on this machine.

Starts a daemon of its own below a temporary directory, asks it which backends there are, and leaves nothing behind.
Every `$ imod` line is what you would type; only the daemon's address is left out.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

from tests.harness.daemon import PrivateDaemon

BUSYBOX = Path("/usr/bin/busybox")
IMAGE = "demo"
NAME = "hello"
WIDTH = 120
SCRIPT = "echo started; while sleep 1; do echo still here; done"


def main() -> int:
    """Run the demo; the status is 0 when a container ran under at least one pair of backends and nothing is left."""
    if os.geteuid() != 0:
        print("The demo mounts and makes containers: run it as root.", file=sys.stderr)
        return 2
    if not BUSYBOX.is_file():
        print("The demo's image is made of busybox: apt-get install busybox-static", file=sys.stderr)
        return 2
    began = time.monotonic()
    with PrivateDaemon() as daemon, tempfile.TemporaryDirectory() as rootfs:
        print(f"intermodald started in {time.monotonic() - began:.1f} s, alone below {daemon.base}\n")
        make_rootfs(Path(rootfs))
        imod(daemon, "images", "from-rootfs", rootfs, IMAGE, "--cmd", "sh")
        ran = show_backends(daemon)
        if ran:
            show_running(daemon)
    # Leaving the block ended the daemon and looked: a mount, process, cgroup or loop device left is an error.
    left = daemon.base.exists()
    print(f"\ncleaned up: no mount, process, cgroup{', but a directory' if left else ' or directory'} left behind")
    return 0 if ran and not left else 1


def make_rootfs(directory: Path) -> None:
    """What a small Linux needs: busybox, a link to it for each command, and places to mount on."""
    for name in ("bin", "dev", "etc", "proc", "root", "sys", "tmp"):
        (directory / name).mkdir()
    (directory / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (directory / "bin/busybox").write_bytes(BUSYBOX.read_bytes())
    (directory / "bin/busybox").chmod(0o755)
    commands = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True, timeout=10).stdout
    for command in commands.split():
        if command != "busybox":
            (directory / "bin" / command).symlink_to("busybox")


def show_backends(daemon: PrivateDaemon) -> int:
    """Run the image under each pair of backends, twice; the number of pairs under which it ran."""
    plugins = json.loads(daemon.imod("plugins", "ls", "-o", "json", check=True).stdout)
    runtimes, snapshotters = (
        [plugin["name"] for plugin in plugins if plugin["kind"] == kind and plugin["state"] in ("ready", "available")]
        for kind in ("runtimes", "snapshotters")
    )
    print(f"\n$ imod run --rm --runtime RUNTIME --snapshotter SNAPSHOTTER {IMAGE} echo hello")
    print(
        f"{'RUNTIME':12} {'SNAPSHOTTER':12} {'FIRST RUN':>12} {'NEXT RUN':>12}  EXIT   (times until the first output)"
    )
    ran = 0
    for runtime, snapshotter in product(runtimes, snapshotters):
        runs = [first_output(daemon, runtime, snapshotter) for _ in range(2)]
        times = " ".join(f"{after * 1000:>9.0f} ms" if after else f"{'-':>12}" for after, _, _ in runs)
        _, status, said = runs[-1]
        print(f"{runtime:12} {snapshotter:12} {times}  {status:<4} {'' if status == 0 else said}")
        ran += status == 0
    for plugin in plugins:
        if plugin["kind"] in ("runtimes", "snapshotters") and plugin["state"] not in ("ready", "available"):
            why = "; ".join(part for part in (plugin["reason"], plugin["remedy"]) if part)
            print(f"{plugin['kind']}.{plugin['name']} {plugin['state']}: {why}")
    return ran


def first_output(daemon: PrivateDaemon, runtime: str, snapshotter: str) -> tuple[float | None, int, str]:
    """Seconds until a container's first byte, its exit code, and what it said where it failed."""
    words = ["run", "--rm", "--runtime", runtime, "--snapshotter", snapshotter, IMAGE, "echo", "hello"]
    began = time.monotonic()
    with subprocess.Popen(
        daemon.imod_command(*words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        after = time.monotonic() - began if process.stdout.read(1) else None
        errors = process.communicate(timeout=60)[1].decode(errors="replace")
    return after, process.returncode, errors.strip()


def show_running(daemon: PrivateDaemon) -> None:
    """A container that stays: exec, logs, events, and its end."""
    print()
    imod(daemon, "run", "-d", "--name", NAME, IMAGE, "sh", "-c", SCRIPT)
    imod(daemon, "exec", NAME, "ps")
    imod(daemon, "logs", NAME)
    imod(daemon, "rm", "-f", NAME)
    show_events(daemon, "--since", "0", "--filter", "topic~=^/tasks/")


def show_events(daemon: PrivateDaemon, *words: str) -> None:
    """Replay what was published about the container that stayed, up to the deletion of its task."""
    print(f"$ imod {shlex.join(['events', *words])} | grep {NAME}", flush=True)
    with subprocess.Popen(
        daemon.imod_command("events", *words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if NAME in line:
                print(line.rstrip() if len(line) <= WIDTH else line[: WIDTH - 3] + "...")
            if "/tasks/delete" in line and NAME in line:
                break
        process.kill()


def imod(daemon: PrivateDaemon, *words: str) -> None:
    """Show a command and what it writes."""
    print(f"$ imod {shlex.join(words)}", flush=True)
    print(daemon.imod(*words, check=True).stdout, end="", flush=True)


if __name__ == "__main__":
    sys.exit(main())
