"""`imod --embedded`: join the daemon that holds a root and state, or start one there that ends when nobody needs it."""

from __future__ import annotations

import contextlib
import os
import sys
import time

from intermodal.cli.channel import connect
from intermodal.cli.errors import Failure

__all__ = ["join"]

DEFAULT_ROOT = "/var/lib/intermodal"
DEFAULT_STATE = "/run/intermodal"
#: Seconds after which a daemon that nobody asked anything, and no container needs, ends.
IDLE_SECONDS = 60
#: Seconds in which a daemon that another imod has started must be ready.
START_SECONDS = 60


def join(root: str | None, state: str | None) -> str:
    """The main socket of the daemon on `root` and `state`, which is ready when this returns. Raises Failure."""
    root, state = os.path.abspath(root or DEFAULT_ROOT), os.path.abspath(state or DEFAULT_STATE)
    address = os.path.join(state, "intermodal.sock")
    if _answers(address):
        return address
    problem = _start(root, state, address)
    if not problem:
        return address
    # Refused: another one holds the lock, and may listen elsewhere or be about to.
    deadline = time.monotonic() + START_SECONDS
    while (other := _holder(state) or _holder(root)) and time.monotonic() < deadline:
        if _answers(other):
            return other
        time.sleep(0.05)
    raise Failure(problem)


def _answers(address: str) -> bool:
    try:
        connect(address).close()
    except OSError:
        return False
    return True


def _start(root: str, state: str, address: str) -> str:
    """Start a daemon and wait until it is ready; returns "", or the sentence with which it ended."""
    try:
        os.makedirs(state, mode=0o711, exist_ok=True)
        log = os.open(
            os.path.join(state, "intermodald.log"), os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
    except OSError as error:
        raise Failure(
            f"--embedded: {error.filename}: {error.strerror}; give directories with --root and --state"
        ) from None
    begin = os.fstat(log).st_size
    reader, writer = os.pipe()
    command = [sys.executable, "-P", "-m", "intermodal_core.daemon"]  # -P: nothing is imported from where we stand
    command += ["--root", root, "--state", state, "--address", address, "--exit-idle", str(IDLE_SECONDS)]
    nowhere = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    actions = [(os.POSIX_SPAWN_DUP2, nowhere, 0), (os.POSIX_SPAWN_DUP2, writer, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
    pid = os.posix_spawn(sys.executable, command, os.environ, file_actions=actions, setsid=True)
    os.close(nowhere)
    os.close(writer)
    with open(reader, "rb") as output:
        ready = output.readline()
    try:
        if ready:
            return ""
        os.waitpid(pid, 0)
        said = os.pread(log, 1 << 16, begin).decode(errors="replace").rstrip().rpartition("\n")[2]
        return said.removeprefix("intermodald: ") or "the daemon ended without a word"
    finally:
        os.close(log)


def _holder(directory: str) -> str:
    """The main socket of the live daemon that the lock in `directory` names, or ""."""
    with contextlib.suppress(OSError, ValueError), open(os.path.join(directory, "lock")) as lock:
        pid, address = lock.read().splitlines()[:2]
        os.kill(int(pid), 0)
        return address
    return ""
