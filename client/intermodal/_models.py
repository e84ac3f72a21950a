"""Plain values that the client returns."""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from google.protobuf.message import Message
from intermodal_core.errors import IntermodalError


@dataclass(frozen=True)
class Output:
    """What a command that ended has left. `str(output)` is its standard output as text."""

    exit_code: int
    """The command's own, or 128 + n where signal n ended it."""
    stdout: bytes
    stderr: bytes
    """Empty with a terminal: there all of it is in `stdout`."""

    @property
    def text(self) -> str:
        """Standard output, decoded as UTF-8; what is not UTF-8 becomes U+FFFD."""
        return self.stdout.decode("utf-8", "replace")

    @property
    def error_text(self) -> str:
        """Standard error, decoded likewise."""
        return self.stderr.decode("utf-8", "replace")

    def check(self) -> "Output":
        """This output, or CommandFailed raised where the exit code is not 0."""
        if self.exit_code:
            raise CommandFailed(self)
        return self

    def __str__(self) -> str:
        return self.text


class CommandFailed(IntermodalError):
    """A command ended with another exit code than 0, where that was asked not to pass."""

    reason: ClassVar[str] = "command_failed"

    def __init__(self, output: Output) -> None:
        last_words = output.error_text.strip()[-500:]
        super().__init__(
            f"The command ended with exit code {output.exit_code}" + (f": {last_words}" if last_words else "")
        )
        self.output = output


@dataclass(frozen=True)
class Stats:
    """What a container uses now, as its cgroup counts it; 0 where the kernel does not count it."""

    read_at: datetime
    cpu_ns: int
    """Processor time used so far, in nanoseconds."""
    memory: int
    """Bytes, page cache included."""
    memory_limit: int
    """Bytes; about 2^63 where there is no limit."""
    pids: int


@dataclass(frozen=True)
class Event:
    """Something that happened, as the daemon told it."""

    timestamp: datetime
    namespace: str
    topic: str
    """Such as /tasks/exit."""
    type: str
    """The message's name, such as containerd.events.TaskExit."""
    message: Message | None
    """One of the classes of `intermodal.events`; None for a type that the client does not know."""
    sequence: int
    """Place in the daemon's journal; 0 where the daemon keeps none, as containerd."""
    gap: bool
    """Whether events may have been missed just before this one: the stream broke and the daemon cannot replay."""


@dataclass(frozen=True)
class Version:
    """Which daemon answers."""

    version: str
    revision: str


@dataclass(frozen=True)
class Plugin:
    """A part of the daemon, as its introspection lists it."""

    type: str
    id: str
    capabilities: tuple[str, ...]
    error: str
    """Why it does not work; empty for one that does."""


@dataclass(frozen=True)
class Namespace:
    """A namespace and its labels."""

    name: str
    labels: dict[str, str]
