"""Requests to one server: authorised when it asks for that, tried again while that may help."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import ssl
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
from intermodal_core.contracts.image_sources import Access
from intermodal_core.errors import (
    FailedPrecondition,
    IntermodalError,
    PermissionDenied,
    Unavailable,
    from_os_error,
)

from intermodal_registry import challenge as challenges
from intermodal_registry.answers import PASSING, refusal, retry_after
from intermodal_registry.credentials import Credentials, Found
from intermodal_registry.hosts import Server, is_local
from intermodal_registry.settings import Settings

__all__ = ["Client", "Http"]

_BASIC_SECONDS: Final = 300.0
_TOKEN_SECONDS: Final = 60.0
_TOKEN_DOCUMENT: Final = 1 << 20


class Http:
    """What all clients share: connections, TLS contexts, and what servers gave to show next time."""

    def __init__(self, settings: Settings, credentials: Credentials) -> None:
        self.settings = settings
        self.credentials = credentials
        self._session: aiohttp.ClientSession | None = None
        self._contexts: dict[Any, ssl.SSLContext] = {}
        #: (server, scope, access) -> what goes into Authorization, and until when.
        self.authorisations: dict[tuple[str, str, Access], tuple[str, float]] = {}

    @property
    def session(self) -> aiohttp.ClientSession:
        """The session, made when it is first needed."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "intermodal", "Accept-Encoding": "identity"},
                read_bufsize=1 << 20,
                trust_env=True,
            )
        return self._session

    def context(self, server: Server) -> ssl.SSLContext:
        """The TLS context of a server. Raises FailedPrecondition for a file that is no certificate."""
        key = (server.ca, server.client, server.skip_verify)
        if key not in self._contexts:
            context = ssl.create_default_context()
            try:
                for path in server.ca or ():
                    context.load_verify_locations(path)
                for certificate, private in server.client:
                    context.load_cert_chain(certificate, private)
            except (ssl.SSLError, ValueError) as error:
                raise FailedPrecondition(f"the certificates of {server.url} ({server.origin}): {error}") from None
            except OSError as error:
                raise from_os_error(error, f"reading the certificates of {server.url} ({server.origin})") from error
            if server.skip_verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            self._contexts[key] = context
        return self._contexts[key]

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None


class Client:
    """One server as one caller asks it for names of `domain`."""

    def __init__(self, http: Http, server: Server, domain: str, access: Access) -> None:
        self._http = http
        self._domain = domain
        self._access = access
        self.server = server

    async def credentials(self) -> Found:
        """What would be shown to this server."""
        return await self._http.credentials.find(self.server.host, self._domain, self._access)

    async def request(
        self,
        method: str,
        path: str,
        scope: str,
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        data: Any = None,
        accept: tuple[int, ...] = (),
    ) -> aiohttp.ClientResponse:
        """An answer below 400, or with a status in `accept`, whose body the caller reads or closes.

        `path` is below the server's root, or a whole URL that the server gave. `data` that can be sent once, a stream, is
        tried once. Raises by meaning.
        """
        settings = self._http.settings
        url = path if "://" in path else self.server.url + path
        asked = f"{method} {url}"
        attempts = settings.attempts if data is None or isinstance(data, bytes) else 1
        for attempt in range(attempts):
            pause = random.uniform(0.5, 1) * settings.pause * 2**attempt
            try:
                response = await self._authorised(method, url, scope, headers or {}, params or {}, data)
            except (aiohttp.ClientSSLError, ssl.SSLError) as error:
                raise Unavailable(f"{asked}: TLS: {_sentence(error)} ({self.server.trust})") from error
            except aiohttp.InvalidURL as error:
                raise FailedPrecondition(f"{asked}: {_sentence(error)}") from error
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                failure: IntermodalError = Unavailable(f"{asked}: {_sentence(error)}")
                if isinstance(error, aiohttp.ClientConnectorError) and attempt:
                    raise failure from error  # nobody listens there: what helps is another host, or somebody's hand
            else:
                if response.status < 400 or response.status in accept:
                    return response
                pause = max(pause, retry_after(response, time.time()))
                failure = await refusal(response, asked)
                if response.status not in PASSING or pause > settings.patience:
                    raise failure
            if attempt + 1 < attempts:
                await asyncio.sleep(pause)
        raise failure

    async def _authorised(
        self, method: str, url: str, scope: str, headers: Mapping[str, str], params: Mapping[str, str], data: Any
    ) -> aiohttp.ClientResponse:
        """One request; where the server asks who this is, one more with the answer."""
        response = await self._once(method, url, scope, headers, params, data)
        if response.status != 401 or not self._own(url):
            return response
        asked = challenges.parse(response.headers.getall("WWW-Authenticate", []))
        response.close()
        self._http.authorisations.pop(self._key(scope), None)
        await self._authorise(asked, scope, f"{method} {url}")
        if not (data is None or isinstance(data, bytes)):
            raise Unavailable(f"{method} {url}: the server asked for credentials in the middle of an upload")
        response = await self._once(method, url, scope, headers, params, data)
        if response.status == 401:
            found = await self.credentials()
            failure = await refusal(response, f"{method} {url}")
            raise PermissionDenied(
                f"{failure}: "
                + (
                    f"the credentials {found.origin} are refused"
                    if found.origin
                    else "it takes credentials, see --creds"
                )
            )
        return response

    async def _once(
        self, method: str, url: str, scope: str, headers: Mapping[str, str], params: Mapping[str, str], data: Any
    ) -> aiohttp.ClientResponse:
        own = self._own(url)
        sent = {**(self.server.header if own else {}), **headers}
        known, until = self._http.authorisations.get(self._key(scope), ("", 0.0))
        if own and known and time.monotonic() < until:
            sent["Authorization"] = known
        query = dict(params)
        if own and self.server.upstream:
            query["ns"] = self.server.upstream
        settings = self._http.settings
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self.server.dial_timeout or settings.dial, sock_read=settings.stall
        )
        return await self._http.session.request(
            method,
            url,
            params=query or None,
            headers=sent,
            data=data,
            timeout=timeout,
            ssl=self._http.context(self.server) if url.startswith("https:") or own else True,
        )

    def _own(self, url: str) -> bool:
        """Whether a URL is of this server: what is secret goes nowhere else."""
        return urlsplit(url)[:2] == urlsplit(self.server.url)[:2]

    def _key(self, scope: str) -> tuple[str, str, Access]:
        return self.server.url, scope, self._access

    async def _authorise(self, asked: list[challenges.Challenge], scope: str, doing: str) -> None:
        """Get what the server asks for, and remember it."""
        found = await self.credentials()
        for each in asked:
            if each.scheme == "bearer" and "realm" in each.parameters:
                header, seconds = await self._token(each, scope, found, doing)
                break
            if each.scheme == "basic":
                if not found.username:
                    raise PermissionDenied(
                        f"{doing}: 401: it takes a user and a password, and there are none for {self.server.host}: "
                        "log in with a tool that writes Docker's config.json, or give --creds"
                    )
                header = _basic(found)
                seconds = _BASIC_SECONDS
                break
        else:
            schemes = ", ".join(each.scheme for each in asked) or "nothing"
            raise PermissionDenied(f"{doing}: 401, and it offers {schemes}: only basic and bearer are known")
        now = time.monotonic()
        kept = self._http.authorisations
        for key in [key for key, (_, until) in kept.items() if until < now]:
            del kept[key]
        kept[self._key(scope)] = header, now + seconds

    async def _token(self, asked: challenges.Challenge, scope: str, found: Found, doing: str) -> tuple[str, float]:
        """A bearer token of the realm that the server names (the distribution project's token specification)."""
        realm = asked.parameters["realm"]
        parts = urlsplit(realm)
        if parts.scheme not in ("http", "https"):
            raise FailedPrecondition(f"{doing}: its token realm {realm!r} is no URL")
        secret = bool(found.username or found.token)
        if secret and parts.scheme == "http" and self.server.url.startswith("https:") and not is_local(parts.netloc):
            raise PermissionDenied(f"{doing}: its token realm {realm} would take the credentials without TLS")
        fields = {"scope": asked.parameters.get("scope") or scope}
        if "service" in asked.parameters:
            fields["service"] = asked.parameters["service"]
        settings = self._http.settings
        keywords: dict[str, Any] = {
            "timeout": aiohttp.ClientTimeout(total=settings.stall, sock_connect=settings.dial),
            "ssl": self._http.context(self.server),
        }
        session = self._http.session
        if found.token:
            form = {**fields, "grant_type": "refresh_token", "refresh_token": found.token, "client_id": "intermodal"}
            request = session.post(realm, data=form, **keywords)
        else:
            shown = {"Authorization": _basic(found)} if found.username else {}
            query = {**fields, **({"account": found.username} if found.username else {})}
            request = session.get(realm, params=query, headers=shown, **keywords)
        async with request as response:
            if response.status >= 400:
                failure = await refusal(response, f"{doing}: 401, and its token realm {realm}")
                if response.status in (400, 401, 403):
                    told = (
                        f"the credentials {found.origin} are refused" if secret else "it takes credentials, see --creds"
                    )
                    raise PermissionDenied(f"{failure}: {told}")
                raise failure
            try:
                answer = json.loads(await response.content.read(_TOKEN_DOCUMENT))
                token = str(answer.get("token") or answer["access_token"])
                seconds = float(answer.get("expires_in") or _TOKEN_SECONDS)
            except (ValueError, KeyError, TypeError, AttributeError):
                raise FailedPrecondition(f"{doing}: its token realm {realm} answers no token") from None
        return f"Bearer {token}", max(0.0, seconds - 5)


def _basic(found: Found) -> str:
    return f"Basic {base64.b64encode(f'{found.username}:{found.password}'.encode()).decode()}"


def _sentence(error: BaseException) -> str:
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return "no connection in time"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error is not None:
        return str(error.os_error.strerror or error.os_error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
