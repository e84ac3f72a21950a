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

__all__ = ["ENVIRONMENT", "Options", "Runtime", "arguments", "checkpoint_words", "find", "meaning", "state_of"]

#: Of the runtime's commands and of loggers. Made once, before the fork: it is the spawner's, and so the daemon's.
ENVIRONMENT = {key: value for key, value in os.environb.items() if key not in (b"NOTIFY_SOCKET", b"LISTEN_FDS")}

_LOG = 3
_REPORT = 64 << 10
#: How many of a report's errors are quoted: the last ones.
_ERRORS = 3
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
    ("a running process", FailedPrecondition),  # what containerd's shim cannot do with one
)


class Options(NamedTuple):
    """How the runtime is called; `root` is its own state directory, `flags` are further words before each command."""

    binary: str = "runc"
    root: str = ""
    systemd_cgroup: bool = False
    no_pivot: bool = False
    no_new_keyring: bool = False
    flags: tuple[str, ...] = ()

    @property
    def command(self) -> list[str]:
        """The words before each of its commands, but those that say where to log."""
        root = ["--root", self.root] if self.root else []
        return [self.binary, *root, *self.flags, *(["--systemd-cgroup"] if self.systemd_cgroup else [])]

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
            flags=self.flags,
        )


def arguments(namespace: str, log: str, events: str, all_events: bool, options: Options) -> list[str]:
    """What a shim's `main` is given: plain strings, whose reading costs no memory.

    `log` is a file's path, made when there is something to say; `events` the daemon's ttrpc socket, "" for none; with
    `all_events` those of the tasks manager are told, too.
    """
    flags = (all_events, options.systemd_cgroup, options.no_pivot, options.no_new_keyring)
    return [
        namespace,
        log,
        events,
        options.binary,
        options.root,
        *("y" if flag else "" for flag in flags),
        *options.flags,
    ]


def state_of(root: str, id: str) -> list[str]:
    """Where the runtime keeps its state of a container: a directory of that name, or runsc's `ID_sandbox:SANDBOX.state`."""
    try:
        names = os.listdir(root)
    except OSError:
        return []
    return [os.path.join(root, name) for name in names if name == id or name.startswith(f"{id}_sandbox:")]


def checkpoint_words(options: runc.CheckpointOptions) -> list[str]:
    """What a checkpoint command is told."""
    words = [] if options.exit else ["--leave-running"]
    for flag, word in (
        (options.open_tcp, "--tcp-established"),
        (options.external_unix_sockets, "--ext-unix-sk"),
        (options.terminal, "--shell-job"),
        (options.file_locks, "--file-locks"),
    ):
        words += [word] if flag else []
    words += ["--work-path", options.work_path] if options.work_path else []
    words += ["--parent-path", options.parent_path] if options.parent_path else []
    words += ["--manage-cgroups-mode", options.cgroups_mode] if options.cgroups_mode else []
    return [*words, *(f"--empty-ns={name}" for name in options.empty_namespaces)]


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
        argv = [*options.command, "--log", f"/proc/self/fd/{_LOG}", "--log-format", "json", verb, *arguments]
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
    message = _quote(said)
    name = os.path.basename(binary)
    if not message:
        return default(f"{name} {verb} ended with status {status} and said nothing")
    return meaning(message, default)(f"{name} {verb}: {message}")


def meaning(message: str, default: type[IntermodalError]) -> type[IntermodalError]:
    """What a runtime's message means."""
    return next((kind for words, kind in _MEANINGS if words in message.lower()), default)


def _quote(said: bytes) -> str:
    """The errors of a JSON log, whose entries may stand in one line, else the last line of text."""
    last, errors = "", list[str]()
    for line in reversed(said.decode(errors="replace").splitlines()):
        line = line.strip()
        if line.startswith("{"):
            errors += [
                " ".join(str(entry["msg"]).split())
                for entry in reversed(_entries(line))
                if entry.get("level") in ("error", "fatal", "panic") and entry.get("msg")
            ]
        elif line and not last:
            last = line.removeprefix("ERRO[0000] ")
    return ("; ".join(dict.fromkeys(reversed(errors[:_ERRORS]))) or last)[:2000]


def _entries(line: str) -> list[dict[str, object]]:
    found, start = [], 0
    while start < len(line):
        try:
            entry, start = _DECODER.raw_decode(line, start)
        except ValueError:
            break
        if isinstance(entry, dict):
            found.append(entry)
    return found


_DECODER = json.JSONDecoder()
