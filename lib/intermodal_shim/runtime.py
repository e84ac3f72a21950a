"""The runtime's command line (runc's, which others follow), and what its errors mean."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Callable, Mapping
from typing import NamedTuple

from google.protobuf.message import DecodeError
from intermodal_api.containerd.runtime import runc_options_pb2 as runc
from intermodal_core.errors import (
    AlreadyExists,
    FailedPrecondition,
    IntermodalError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    from_os_error,
)

from intermodal_shim.loop import Loop

__all__ = ["ENVIRONMENT", "Options", "Runtime", "arguments", "find"]

#: Of the runtime's commands and of loggers. Made once, before the fork: it is the spawner's, and so the daemon's.
ENVIRONMENT = {key: value for key, value in os.environb.items() if key not in (b"NOTIFY_SOCKET", b"LISTEN_FDS")}

_LOG = 3
_REPORT = 64 << 10
#: Words of a runtime's message and what they mean; the first that is found counts.
_MEANINGS: tuple[tuple[str, type[IntermodalError]], ...] = (
    ("already exist", AlreadyExists),
    ("container does not exist", NotFound),
    ("executable file not found", NotFound),
    ("no such file or directory", NotFound),
    ("process already finished", NotFound),
    ("no such process", NotFound),
    ("permission denied", PermissionDenied),
    ("operation not permitted", PermissionDenied),
    ("no space left", ResourceExhausted),
    ("cannot allocate memory", ResourceExhausted),
    ("not running", FailedPrecondition),
    ("stopped container", FailedPrecondition),
    ("container is paused", FailedPrecondition),
    ("paused", FailedPrecondition),
)


class Options(NamedTuple):
    """How the runtime is called; `root` is its own state directory."""

    binary: str = "runc"
    root: str = ""
    systemd_cgroup: bool = False
    no_pivot: bool = False
    no_new_keyring: bool = False

    def merged(self, type_url: str, value: bytes, namespace: str) -> Options:
        """These options, overridden by a request's `containerd.runc.v1.Options`; another type changes nothing.

        Raises InvalidArgument where the bytes are not what the type says.
        """
        if type_url.rpartition("/")[2] != runc.Options.DESCRIPTOR.full_name:
            return self
        try:
            asked = runc.Options.FromString(value)
        except DecodeError as error:
            raise InvalidArgument(f"the runtime options are no {type_url}: {error}") from error
        return Options(
            binary=asked.binary_name or self.binary,
            root=os.path.join(asked.root, namespace) if asked.root else self.root,
            systemd_cgroup=asked.systemd_cgroup or self.systemd_cgroup,
            no_pivot=asked.no_pivot_root or self.no_pivot,
            no_new_keyring=asked.no_new_keyring or self.no_new_keyring,
        )


def arguments(namespace: str, log: str, events: str, all_events: bool, options: Options) -> list[str]:
    """What a shim's `main` is given: plain strings, whose reading costs no memory.

    `log` is a file's path, made when there is something to say; `events` the daemon's ttrpc socket, "" for none; with
    `all_events` those of the tasks manager are told, too.
    """
    flags = (all_events, options.systemd_cgroup, options.no_pivot, options.no_new_keyring)
    return [namespace, log, events, options.binary, options.root, *("y" if flag else "" for flag in flags)]


class Runtime:
    """Starts the runtime's commands; each is a child whose end is called back."""

    def __init__(self, loop: Loop, options: Options) -> None:
        self._loop = loop
        self.options = options

    def run(
        self,
        verb: str,
        *arguments: str,
        ended: Callable[[IntermodalError | None, bytes], object],
        fds: Mapping[int, int] | None = None,
        default: type[IntermodalError] = IntermodalError,
    ) -> int:
        """Start `verb` and call `ended(error, report)` at its end; returns its pid.

        `fds` are the descriptors 0, 1, 2 that it passes to a process; without them its output is part of the report. An
        error quotes the runtime's last message; `default` is its kind where the message says none. Raises NotFound when there
        is no such binary, and what else a failed execution means.
        """
        options = self.options
        argv = [options.binary, *(("--root", options.root) if options.root else ())]
        argv += ["--log", f"/proc/self/fd/{_LOG}", "--log-format", "json"]
        argv += [*(["--systemd-cgroup"] if options.systemd_cgroup else []), verb, *arguments]
        report = _report()

        def command_ended(status: int) -> None:
            said = os.pread(report, _REPORT, max(0, os.fstat(report).st_size - _REPORT))
            os.close(report)
            ended(_error(options.binary, verb, status, said, default) if status else None, said)

        try:
            given = {1: report, 2: report, **(fds or {}), _LOG: report}
            return self._loop.spawn(argv, ENVIRONMENT, given, command_ended)
        except OSError as error:
            os.close(report)
            raise missing(options.binary, error) from error


def _report() -> int:
    """A memfd, above all descriptors that are given, for a command's log and output."""
    fd = os.memfd_create("report", os.MFD_CLOEXEC)
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _LOG + 1)
    finally:
        os.close(fd)


def missing(binary: str, error: OSError) -> IntermodalError:
    """What it means that `binary` could not be executed."""
    if error.errno != errno.ENOENT:
        return from_os_error(error, f"executing the runtime {binary}")
    where = "" if "/" in binary else f" in {os.environ.get('PATH', os.defpath)}"
    return NotFound(f"the runtime {binary} was not found{where}; install it or set its `binary` to its path")


def find(binary: str) -> str:
    """The absolute path of a runtime, sought on PATH where it has no slash. Raises NotFound that lists what was tried."""
    tried = [binary] if "/" in binary else [os.path.join(d, binary) for d in os.get_exec_path()]
    for path in tried:
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return os.path.abspath(path)
    raise NotFound(
        f"no executable runtime {binary}: tried {', '.join(tried)}; install it or set `binary` to its absolute path"
    )


def _error(binary: str, verb: str, status: int, said: bytes, default: type[IntermodalError]) -> IntermodalError:
    message = _last_message(said)
    name = os.path.basename(binary)
    if not message:
        return default(f"{name} {verb} ended with status {status} and said nothing")
    kind = next((kind for words, kind in _MEANINGS if words in message.lower()), default)
    return kind(f"{name} {verb}: {message}")


def _last_message(said: bytes) -> str:
    """The last error of a JSON log, else the last line of text."""
    last = ""
    for line in reversed(said.decode(errors="replace").splitlines()):
        line = line.strip()
        if line.startswith("{"):
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and entry.get("level") in ("error", "fatal", "panic") and entry.get("msg"):
                return " ".join(str(entry["msg"]).split())[:2000]
        elif line and not last:
            last = line.removeprefix("ERRO[0000] ")[:2000]
    return last
