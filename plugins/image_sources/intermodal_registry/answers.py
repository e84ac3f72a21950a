"""What a server's refusal means: statuses and error documents as errors of the closed set."""

from __future__ import annotations

import json
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

from intermodal_core.errors import (
    FailedPrecondition,
    IntermodalError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)

if TYPE_CHECKING:
    import aiohttp

__all__ = ["PASSING", "refusal", "retry_after"]

#: Statuses after which the same request may succeed.
PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_MEANINGS: Final[dict[int, type[IntermodalError]]] = {
    401: PermissionDenied,
    403: PermissionDenied,
    404: NotFound,
    405: Unimplemented,
    407: PermissionDenied,
    408: Unavailable,
    410: NotFound,
    425: Unavailable,
    429: ResourceExhausted,
    451: PermissionDenied,
    501: Unimplemented,
}
_DOCUMENT: Final = 1 << 16


async def refusal(response: aiohttp.ClientResponse, asked: str) -> IntermodalError:
    """The error for an answer of 400 or more, with what the server says; `asked` is the method and URL."""
    said = ""
    try:
        said = _said(await response.content.read(_DOCUMENT))
    except Exception:  # whatever befalls the body, the status is known
        pass
    finally:
        response.close()
    meaning = _MEANINGS.get(response.status, Unavailable if response.status >= 500 else FailedPrecondition)
    reason = f" {response.reason}" if response.reason else ""
    return meaning(f"{asked}: {response.status}{reason}{f' ({said})' if said else ''}")


def retry_after(response: aiohttp.ClientResponse, now: float) -> float:
    """Seconds that the server asks to wait (RFC 9110, 10.2.3); 0 where it does not."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(min(int(text[:9]), 1 << 20))
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now) if text else 0.0
    except (ValueError, OverflowError):
        return 0.0


def _said(data: bytes) -> str:
    """The messages of an error document (distribution specification, "Error Codes"); of anything else its beginning."""
    text = data.decode(errors="replace")
    try:
        errors = json.loads(text)["errors"]
        told = [": ".join(filter(None, (str(e.get("code") or ""), str(e.get("message") or "")))) for e in errors]
        text = "; ".join(filter(None, told))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        text = " ".join(text.split())
    shown = "".join(character if character.isprintable() else "?" for character in text)
    return shown if len(shown) <= 300 else shown[:297] + "..."
