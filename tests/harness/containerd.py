"""Debian's containerd, private to a test: its own root, state and socket, and nothing left of it afterwards."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONFIG = """version = 2
root = "{base}/root"
state = "{base}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"{disabled}]
[grpc]
  address = "{address}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{base}/opt"
"""


class Containerd:
    """A daemon below a directory of its own. Leaving the block ends it, and finds shims and mounts left behind."""

    def __init__(self, directory: Path | None = None, binaries: str = "", config: str = "", disabled: str = "") -> None:
        """`directory`: below which (default: memory, where there is some). `binaries`: where another release's are.

        `config` is added to the daemon's; `disabled` is a plugin that is not wanted.
        """
        memory = Path("/dev/shm")
        self._base = Path(
            tempfile.mkdtemp(prefix="containerd-", dir=directory or (memory if memory.is_dir() else None))
        )
        self._path = os.pathsep.join(filter(None, (binaries, os.environ.get("PATH", ""))))
        self.address = str(self._base / "c.sock")
        self._config = self._base / "config.toml"
        self._config.write_text(
            CONFIG.format(base=self._base, address=self.address, disabled=f', "{disabled}"' if disabled else "")
            + config
        )
        self._daemon: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the daemon, again after `stop`; return once it answers."""
        log = self._base / "log"
        environment = os.environ | {"PATH": self._path}
        binary = shutil.which("containerd", path=self._path) or "containerd"
        with open(log, "ab") as file:
            daemon = subprocess.Popen(
                [binary, "--config", str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the test, which then ends the daemon
            )
        self._daemon = daemon
        deadline = time.monotonic() + 30
        probe = ["ctr", "--address", self.address, "--connect-timeout", "1s", "version"]
        while subprocess.run(probe, capture_output=True, timeout=30, check=False, env=environment).returncode:
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("containerd did not start:\n" + log.read_text()[-2000:])

    @property
    def pid(self) -> int:
        """The daemon's own process id."""
        assert self._daemon is not None, "the daemon was not started"
        return self._daemon.pid

    def stop(self) -> None:
        """End the daemon; its shims stay."""
        daemon, self._daemon = self._daemon, None
        if daemon is None:
            return
        daemon.terminate()
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait(10)

    def __enter__(self) -> "Containerd":
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        left = _end_shims(self.address)
        mounts = _unmount_below(self._base)
        shutil.rmtree(self._base)
        assert not left, f"shims left behind: {left}"
        assert not mounts, f"mounts left behind: {mounts}"


@contextmanager
def containerd() -> Iterator[str]:
    """The address of a running daemon, for the block."""
    with Containerd() as daemon:
        yield daemon.address


def _end_shims(address: str) -> list[str]:
    """The command lines of shims that this daemon left; they are killed, by their own ids."""
    left = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"-address" in words and address.encode() in words:
            left.append(b" ".join(words).decode())
            os.kill(int(entry.name), signal.SIGKILL)
    return left


def _unmount_below(base: Path) -> list[str]:
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    left = [point for point in points if point.startswith(f"{base}/")]
    for point in reversed(left):
        subprocess.run(["umount", "--lazy", point], check=True, timeout=10)
    return left
