"""A daemon private to a test: its own root, state, sockets and namespace, on memory where there is some.

`stop` ends it and looks for what it left behind: that is what a test of a crash or of a failure asks in the end.
"""

from __future__ import annotations

import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["BIN", "PrivateDaemon", "children_of"]

BIN = Path(sys.executable).parent
START_SECONDS = 60
STOP_SECONDS = 30
#: What is on its way out, such as the shim of a task that was just deleted, may take so long.
LEAVE_SECONDS = 5
CGROUPS = Path("/sys/fs/cgroup")


class PrivateDaemon:
    """`intermodald` below a temporary directory.

    `config` is TOML; the harness adds `cgroup_parent` to its `[managers.tasks]`. `command` replaces what is started,
    for a launcher that wraps the daemon; the daemon's own arguments follow it. `directory` is below which its own is made.
    """

    def __init__(
        self,
        config: str = "",
        *,
        command: Sequence[str] = (),
        arguments: Sequence[str] = (),
        start: bool = True,
        directory: Path | None = None,
    ) -> None:
        memory = Path("/dev/shm")
        self.base = Path(tempfile.mkdtemp(prefix="imod-", dir=directory or (memory if memory.is_dir() else None)))
        self.base.chmod(0o711)  # as /run is: user namespaces go through it
        self.root, self.state = self.base / "root", self.base / "state"
        self.address = str(self.state / "intermodal.sock")
        self.log = self.base / "log"
        self.namespace = f"test-{secrets.token_hex(4)}"
        self._mark = secrets.token_hex(8)
        self._command = [*(command or [str(BIN / "intermodald")])]
        self._arguments = [*arguments]
        self.process: subprocess.Popen[bytes] | None = None
        self.config_file = self.base / "config.toml"
        table = "[managers.tasks]"
        config = config if table in config else f"{config}\n{table}"
        own = config.replace(table, f'{table}\ncgroup_parent = "{self.namespace}"')
        self.config_file.write_text(f"version = 1\n{own}\n")
        if start:
            self.start()

    def __enter__(self) -> PrivateDaemon:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        except AssertionError as leaked:
            if error is None:
                raise
            error.add_note(str(leaked))

    # Its life.

    def start(self, env: Mapping[str, str] | None = None) -> None:
        """Start it and return once it said that it is ready. Raises RuntimeError with the end of its log when it did not."""
        places = ["--config", str(self.config_file), "--root", str(self.root), "--state", str(self.state)]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*self._command, *places, "--address", self.address, *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **(env or {}), "INTERMODAL_TEST_MARK": self._mark},
                start_new_session=True,
            )
        if not self._said_ready(self.process):
            self.kill9()
            raise RuntimeError(f"intermodald did not become ready:\n{self.tail()}")

    def _said_ready(self, process: subprocess.Popen[bytes]) -> bool:
        assert process.stdout is not None
        said = b""
        deadline = time.monotonic() + START_SECONDS
        while not said.endswith(b"\n"):
            ready, _, _ = select.select([process.stdout], [], [], max(0, deadline - time.monotonic()))
            data = os.read(process.stdout.fileno(), 4096) if ready else b""
            if not data:
                return False
            said += data
        return b" ready on " in said

    @property
    def pid(self) -> int:
        """The daemon's own process id."""
        assert self.process is not None, "the daemon was not started"
        return self.process.pid

    def tail(self, lines: int = 40) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def kill9(self) -> None:
        """SIGKILL to the daemon alone; its containers run on."""
        if self.process is not None:
            self.process.kill()
            self._reap()

    def end(self) -> None:
        """SIGTERM, and wait until it is gone; its containers run on. Raises AssertionError when it does not end."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill9()
            raise AssertionError(f"intermodald did not end on SIGTERM:\n{self.tail()}") from None
        self._reap()

    def restart(self) -> None:
        """A new daemon on the same root and state."""
        self.end()
        self.start()

    def stop(self) -> None:
        """End it and remove its directory. Raises AssertionError with what it left: mounts, processes, cgroups, loops."""
        failures = []
        try:
            self.end()
        except AssertionError as error:
            failures.append(str(error))
        deadline = time.monotonic() + LEAVE_SECONDS
        while (leaked := self.leaks()) and time.monotonic() < deadline:
            time.sleep(0.02)
        log = self.tail()
        self._clean()
        failures += leaked
        if failures:
            raise AssertionError("left behind:\n  " + "\n  ".join(failures) + f"\nthe daemon's log:\n{log}")

    def _reap(self) -> None:
        assert self.process is not None
        self.process.wait(STOP_SECONDS)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.process = None

    # What clients do.

    def imod_command(self, *arguments: str) -> list[str]:
        """The words of an imod command on this daemon."""
        return [str(BIN / "imod"), "--address", self.address, "-n", self.namespace, *arguments]

    def imod(
        self,
        *arguments: str,
        input: str | bytes | None = None,
        timeout: float = 60,
        check: bool = False,
        **keywords: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run imod to its end; stdin is empty unless given. With `check` a failure is an AssertionError with its stderr."""
        return _run(self.imod_command(*arguments), input, timeout, check, keywords)

    def ctr(
        self,
        *arguments: str,
        input: str | bytes | None = None,
        timeout: float = 60,
        check: bool = False,
        **keywords: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run Debian's ctr on this daemon, in its namespace."""
        command = ["ctr", "--address", self.address, "--namespace", self.namespace, *arguments]
        return _run(command, input, timeout, check, keywords)

    # What is left.

    def leaks(self) -> list[str]:
        """What there is of this daemon's now, a sentence each; for a running one itself and its spawner are not counted."""
        own = set() if self.process is None else {self.process.pid, *children_of(self.process.pid)}
        found = [f"mount {point}" for point in self._mounts()]
        found += [f"process {pid}: {what}" for pid, what in self.processes() if pid not in own]
        found += [f"cgroup {path}" for path in self._cgroups()]
        found += [f"loop device {path}" for path in self._loops()]
        return found

    def processes(self) -> list[tuple[int, str]]:
        """The daemon's processes, shims and containers: by its environment, or its directory in their root's mount."""
        here = os.readlink("/proc/self/ns/mnt")
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                marked = self._mark.encode() in (entry / "environ").read_bytes()
                if not marked and os.readlink(entry / "ns/mnt") != here:
                    # Its root file system alone: a bystander's namespace has copies of whatever was mounted when it was made.
                    mounts = (entry / "mountinfo").read_text().splitlines()
                    marked = any(self.base.name in line for line in mounts if line.split()[4] == "/")
                if marked and (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    found.append((int(entry.name), words.strip()))
            except OSError:
                continue  # it has ended meanwhile
        return found

    def _mounts(self) -> list[str]:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        return [point for line in lines if (point := line.split()[4]).startswith(f"{self.base}/")]

    def _cgroups(self) -> list[Path]:
        tops = [top for top in (CGROUPS, *CGROUPS.iterdir()) if top.is_dir()]
        parents = [top / self.namespace for top in tops if (top / self.namespace).is_dir()]
        found = [Path(path) for parent in parents for path, below, _ in os.walk(parent) if not below]
        # A parent that is empty stays with runc; the namespace's one below it is no container either.
        return [path for path in found if path not in parents and path.name != self.namespace]

    def _loops(self) -> list[Path]:
        found = []
        for loop in Path("/sys/block").glob("loop*/loop/backing_file"):
            try:
                if loop.read_text().startswith(f"{self.base}/"):
                    found.append(Path("/dev") / loop.parts[3])
            except OSError:
                continue
        return found

    def _clean(self) -> None:
        for pid, _ in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for point in reversed(self._mounts()):
            subprocess.run(["umount", "--lazy", point], check=False, capture_output=True, timeout=10)
        for device in self._loops():
            subprocess.run(["losetup", "--detach", device], check=False, capture_output=True, timeout=10)
        for top in (CGROUPS, *CGROUPS.iterdir()):
            for path, _, _ in os.walk(top / self.namespace, topdown=False):
                try:
                    os.rmdir(path)
                except OSError:
                    continue
        shutil.rmtree(self.base, ignore_errors=True)


def _run(
    command: list[str], input: str | bytes | None, timeout: float, check: bool, keywords: dict[str, Any]
) -> subprocess.CompletedProcess[str]:
    given = input.encode() if isinstance(input, str) else input
    if "stdin" not in keywords:
        keywords["input"] = given or b""
    done = subprocess.run(command, capture_output=True, timeout=timeout, check=False, **keywords)
    result = subprocess.CompletedProcess(
        command, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    )
    assert not check or result.returncode == 0, (
        f"{' '.join(command)}: {result.returncode}: {result.stderr}{result.stdout}"
    )
    return result


def children_of(pid: int) -> list[int]:
    """The process ids of the direct children."""
    try:
        return [
            int(word)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for word in (task / "children").read_text().split()
        ]
    except OSError:
        return []
