"""Every error that crosses a contract: a closed set, raised by meaning.

    IntermodalError
        InvalidArgument      the request itself is wrong; the same call can never succeed
        NotFound             what the call names does not exist
        AlreadyExists        what the call would make is there
        FailedPrecondition   the state forbids it now (busy, in use, not stopped)
        PermissionDenied     this caller may not
        ResourceExhausted    a full disk, a full pool, a limit
        Aborted              lost a race; the caller may try again
        OutOfRange           an offset or a cursor that is not kept
        Unimplemented        this backend has no such capability
        Unavailable          not now (starting, a peer gone, a breaker open); may be tried again
        DeadlineExceeded     the time given ran out; the outcome is unknown
        Cancelled            the caller gave up
        DataLoss             stored bytes are not what was stored
        Internal             a defect of ours
    PluginSkipped            raised by a plugin's factory: cannot run here, and why (not a fault)

A message is one sentence: what is wrong, where, what to do. The names and meanings are gRPC's status codes.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from asyncio import Future

__all__ = [
    "Aborted",
    "AlreadyExists",
    "Cancelled",
    "DataLoss",
    "DeadlineExceeded",
    "FailedPrecondition",
    "IntermodalError",
    "Internal",
    "InvalidArgument",
    "NotFound",
    "OutOfRange",
    "PermissionDenied",
    "PluginSkipped",
    "ResourceExhausted",
    "Unavailable",
    "Unimplemented",
    "by_code",
    "from_os_error",
]


class IntermodalError(Exception):
    """The base of all; `code` is the gRPC status number and `reason` a short name for machines.

    `ended` is a future where the call goes on all the same: it is set when the call is over.
    """

    ended: Future[None] | None = None
    code: ClassVar[int] = 2
    reason: ClassVar[str] = "unknown"

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message


class Cancelled(IntermodalError):
    """The caller gave up before the outcome was known."""

    code = 1
    reason = "cancelled"


class InvalidArgument(IntermodalError):
    """The request is wrong whatever the state."""

    code = 3
    reason = "invalid_argument"


class DeadlineExceeded(IntermodalError):
    """The time given ran out; the outcome is unknown until it is reconciled."""

    code = 4
    reason = "deadline_exceeded"


class NotFound(IntermodalError):
    """What the call names does not exist."""

    code = 5
    reason = "not_found"


class AlreadyExists(IntermodalError):
    """What the call would make is there already."""

    code = 6
    reason = "already_exists"


class PermissionDenied(IntermodalError):
    """This caller may not do that."""

    code = 7
    reason = "permission_denied"


class ResourceExhausted(IntermodalError):
    """A full disk, a full pool or a limit."""

    code = 8
    reason = "resource_exhausted"


class FailedPrecondition(IntermodalError):
    """The state forbids it: in use, not stopped, a missing namespace."""

    code = 9
    reason = "failed_precondition"


class Aborted(IntermodalError):
    """Lost a race with another caller; trying again can succeed."""

    code = 10
    reason = "aborted"


class OutOfRange(IntermodalError):
    """An offset or a cursor outside what is kept."""

    code = 11
    reason = "out_of_range"


class Unimplemented(IntermodalError):
    """This backend does not have the capability asked for."""

    code = 12
    reason = "unimplemented"


class Internal(IntermodalError):
    """A defect of ours."""

    code = 13
    reason = "internal"


class Unavailable(IntermodalError):
    """Not now: starting, a peer gone, a breaker open."""

    code = 14
    reason = "unavailable"


class DataLoss(IntermodalError):
    """Stored bytes are not what was stored."""

    code = 15
    reason = "data_loss"


class PluginSkipped(Exception):
    """Raised by a plugin's factory that cannot run on this machine: `reason` says why, `remedy` what would help."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


_BY_CODE: dict[int, type[IntermodalError]] = {kind.code: kind for kind in IntermodalError.__subclasses__()}

_BY_ERRNO: dict[int, type[IntermodalError]] = {
    errno.ENOENT: NotFound,
    errno.EEXIST: AlreadyExists,
    errno.EBUSY: FailedPrecondition,
    errno.ENOTEMPTY: FailedPrecondition,
    errno.EROFS: FailedPrecondition,
    errno.EPERM: PermissionDenied,
    errno.EACCES: PermissionDenied,
    errno.ENOSPC: ResourceExhausted,
    errno.EDQUOT: ResourceExhausted,
    errno.EMFILE: ResourceExhausted,
    errno.ENFILE: ResourceExhausted,
    errno.ENOMEM: ResourceExhausted,
    errno.EINVAL: InvalidArgument,
    errno.ENAMETOOLONG: InvalidArgument,
    errno.EOPNOTSUPP: Unimplemented,
    errno.ENOSYS: Unimplemented,
    errno.ETIMEDOUT: DeadlineExceeded,
    errno.ECONNREFUSED: Unavailable,
    errno.ECONNRESET: Unavailable,
    errno.EPIPE: Unavailable,
}


def by_code(code: int, message: str) -> IntermodalError:
    """The error whose gRPC status number is `code`; an unknown number makes a plain IntermodalError."""
    return _BY_CODE.get(code, IntermodalError)(message)


def from_os_error(error: OSError, doing: str) -> IntermodalError:
    """The error by meaning for a failed system call; `doing` says what was attempted ("write blob X")."""
    where = f" ({error.filename})" if error.filename else ""
    kind = _BY_ERRNO.get(error.errno or 0, IntermodalError)
    return kind(f"{doing}: {error.strerror or error}{where}")
