"""The specification's numbers for errors, and the core's errors by meaning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from intermodal_core.errors import (
    Aborted,
    AlreadyExists,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    IntermodalError,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)

__all__ = [
    "INCOMPATIBLE",
    "INVALID_CONFIG",
    "INVALID_ENVIRONMENT",
    "NOT_AVAILABLE",
    "TRY_LATER",
    "UNDECODABLE",
    "UNKNOWN_CONTAINER",
    "UNSUPPORTED_FIELD",
    "about",
    "as_document",
    "from_document",
    "number_of",
    "numbered",
]

INCOMPATIBLE = 1
UNSUPPORTED_FIELD = 2
UNKNOWN_CONTAINER = 3
INVALID_ENVIRONMENT = 4
IO_FAILURE = 5
UNDECODABLE = 6
INVALID_CONFIG = 7
TRY_LATER = 11
NOT_AVAILABLE = 50
LIMITED = 51

#: From 100 on numbers are a plugin's own.
_NUMBERS: dict[type[IntermodalError], int] = {
    InvalidArgument: INVALID_CONFIG,
    NotFound: UNKNOWN_CONTAINER,
    Unimplemented: UNSUPPORTED_FIELD,
    Unavailable: TRY_LATER,
    Aborted: TRY_LATER,
    DeadlineExceeded: TRY_LATER,
    FailedPrecondition: 100,
    AlreadyExists: 101,
    ResourceExhausted: 102,
    PermissionDenied: 103,
    DataLoss: IO_FAILURE,
}
_OTHERS = 999

_MEANINGS: dict[int, type[IntermodalError]] = {
    INCOMPATIBLE: InvalidArgument,
    UNSUPPORTED_FIELD: Unimplemented,
    UNKNOWN_CONTAINER: NotFound,
    INVALID_ENVIRONMENT: InvalidArgument,
    IO_FAILURE: Internal,
    UNDECODABLE: InvalidArgument,
    INVALID_CONFIG: InvalidArgument,
    TRY_LATER: Unavailable,
    NOT_AVAILABLE: FailedPrecondition,
    LIMITED: FailedPrecondition,
    101: AlreadyExists,
    102: ResourceExhausted,
    103: PermissionDenied,
}


def numbered(number: int, message: str, meaning: type[IntermodalError] | None = None) -> IntermodalError:
    """An error that keeps the specification's number; without a `meaning` that of the number."""
    error = (meaning or _MEANINGS.get(number, FailedPrecondition))(message)
    error.cni_number = number  # type: ignore[attr-defined]
    return error


def number_of(error: BaseException) -> int:
    """The specification's number for an error."""
    known: int | None = getattr(error, "cni_number", None)
    return known if known is not None else _NUMBERS.get(type(error), _OTHERS)  # type: ignore[arg-type]


def about(where: str, error: IntermodalError) -> IntermodalError:
    """The same error, saying where it came from."""
    if error.message.startswith(where):
        return error
    return numbered(number_of(error), f"{where}: {error.message}", type(error))


def as_document(error: BaseException, version: str) -> dict[str, Any]:
    """An error as a plugin prints it."""
    words = error.message if isinstance(error, IntermodalError) else f"{type(error).__name__}: {error}"
    return {"cniVersion": version, "code": number_of(error), "msg": words}


def from_document(document: Mapping[str, Any]) -> IntermodalError:
    """The error that an executable printed."""
    number, details = document.get("code"), document.get("details")
    words = str(document.get("msg") or "no message")
    return numbered(number if isinstance(number, int) else _OTHERS, f"{words}; {details}" if details else words)
