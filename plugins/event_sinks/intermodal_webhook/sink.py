"""An HTTP endpoint that gets each batch as one POST of JSON."""

from __future__ import annotations

import hashlib
import hmac
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence

from intermodal_core.contracts.event_sinks import SunkEvent
from intermodal_core.errors import Unavailable

__all__ = ["SIGNATURE", "Webhook"]

#: The header with the signature: `sha256=` and the hexadecimal HMAC of the body.
SIGNATURE = "X-Intermodal-Signature-256"

#: Bytes of an answer that an error of ours quotes.
_QUOTED = 300


class Webhook:
    """Implements `intermodal_core.contracts.event_sinks.EventSink`.

    The body is `{"events": [...]}`, or `{"lost": {"first": N, "last": N}}`. Delivered is what was answered with 2xx within `timeout`
    seconds; redirects are not followed. With `secret` the body is signed, as GitHub's webhooks are.
    """

    def __init__(
        self,
        url: str,
        filters: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
        secret: str = "",
        timeout: float = 10.0,
    ) -> None:
        self.filters = tuple(filters)
        self._url = url
        self._headers = {"Content-Type": "application/json", **(headers or {})}
        self._secret = secret.encode()
        self._timeout = timeout
        self._opener = urllib.request.build_opener(_NoRedirect)

    def deliver(self, events: tuple[SunkEvent, ...]) -> None:
        """POST the batch."""
        self._post(b'{"events":[%s]}' % b",".join(event.json() for event in events))

    def lost(self, first: int, last: int) -> None:
        """POST what was lost."""
        self._post(b'{"lost":{"first":%d,"last":%d}}' % (first, last))

    def close(self) -> None:
        """Nothing is kept open."""

    def _post(self, body: bytes) -> None:
        headers = dict(self._headers)
        if self._secret:
            headers[SIGNATURE] = f"sha256={hmac.new(self._secret, body, hashlib.sha256).hexdigest()}"
        request = urllib.request.Request(self._url, body, headers, method="POST")
        try:
            with self._opener.open(request, timeout=self._timeout) as answer:
                answer.read(1)
        except urllib.error.HTTPError as error:
            with error:
                said = error.read(_QUOTED).decode(errors="replace").strip()
            raise Unavailable(f"{self._url} answered {error.code} {error.reason}: {said}".rstrip(": ")) from None
        except OSError as error:
            raise Unavailable(f"{self._url} cannot be reached: {getattr(error, 'reason', error)}") from error


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """A redirect is an answer that is not 2xx."""
