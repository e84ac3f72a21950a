"""Credentials, each bound to one host: the caller's own, else those of Docker's config.json and its helpers.

    {"auths": {"HOST": {"auth": base64 of USER:PASSWORD, "identitytoken": "..."}},
     "credHelpers": {"HOST": "NAME"}, "credsStore": "NAME"}

A helper is the program `docker-credential-NAME`, started through the spawner with `get`; it reads the host from its input
and answers JSON. The host's own helper comes first, then the store, then what is written in `auths`.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from intermodal_core.contracts.image_sources import Access
from intermodal_core.errors import IntermodalError, InvalidArgument, PermissionDenied, from_os_error

from intermodal_registry.hosts import HUB

if TYPE_CHECKING:
    from intermodal_core.spawner import Spawner

__all__ = ["NONE", "Credentials", "Found"]

#: The key under which Docker's tools keep those of docker.io.
_HUB_KEY: Final = "https://index.docker.io/v1/"
_HUB_HOSTS: Final = ("index.docker.io", HUB)
_HELPER: Final = re.compile(r"[A-Za-z0-9_.+-]+")
_HELPER_SECONDS: Final = 30.0


class Found(NamedTuple):
    """User and password, or an identity token; `origin` tells people where they are from, "" when there are none."""

    username: str = ""
    password: str = ""
    token: str = ""
    origin: str = ""


NONE: Final = Found()


class Credentials:
    """Looks credentials up in `files`, the first that has some; read anew each time, so a login counts at once."""

    def __init__(self, files: Sequence[Path], spawner: Spawner) -> None:
        self._files = files
        self._spawner = spawner

    async def find(self, host: str, domain: str, access: Access) -> Found:
        """Those for `host`; what the caller gave is for the name's own `domain` alone.

        Raises InvalidArgument for a malformed file, PermissionDenied where a helper fails.
        """
        own = host == domain or (domain == HUB and host in _HUB_HOSTS)
        if own and (access.username or access.refresh_token):
            return Found(access.username, access.password, access.refresh_token, "given with the call")
        for path in self._files:
            found = await self._in_file(path, host)
            if found.origin:
                return found
        return NONE

    async def _in_file(self, path: Path, host: str) -> Found:
        try:
            document = json.loads(path.read_bytes())
        except FileNotFoundError:
            return NONE
        except OSError as error:
            raise from_os_error(error, f"reading {path}") from error
        except ValueError as error:
            raise InvalidArgument(f"{path} is not valid JSON: {error}") from None
        if not isinstance(document, dict):
            raise InvalidArgument(f"{path} must hold a JSON object")
        keys = [_HUB_KEY, *_HUB_HOSTS] if host in _HUB_HOSTS else [host]
        helpers = document.get("credHelpers") or {}
        helper = next((helpers[key] for key in keys if key in helpers), "") or document.get("credsStore", "")
        if helper:
            found = await self._ask(str(helper), keys[0], path)
            if found.origin:
                return found
        for key, entry in (document.get("auths") or {}).items():
            if (key in keys or _host_of(key) in keys) and isinstance(entry, dict):
                found = _decode(entry, path, key)
                if found.origin:
                    return found
        return NONE

    async def _ask(self, name: str, key: str, path: Path) -> Found:
        if not _HELPER.fullmatch(name):
            raise InvalidArgument(f"{path} names the credential helper {name!r}, which can be no program's name")
        program = f"docker-credential-{name}"
        try:
            done = await self._spawner.run_async([program, "get"], key.encode(), _HELPER_SECONDS)
        except IntermodalError as error:
            raise PermissionDenied(f"the credential helper {program} of {path} cannot be used: {error}") from error
        said = (done.stdout.strip() or done.stderr.strip()).decode(errors="replace")[:200]
        if done.exit:
            if "not found" in said.lower():
                return NONE
            raise PermissionDenied(f"the credential helper {program} of {path} failed for {key}: {said}")
        try:
            answer = json.loads(done.stdout)
            username, secret = str(answer["Username"]), str(answer["Secret"])
        except (ValueError, KeyError, TypeError):
            raise PermissionDenied(f"the credential helper {program} of {path} answers no credentials") from None
        if username == "<token>":
            return Found(token=secret, origin=program)
        return Found(username, secret, origin=program)


def _host_of(key: str) -> str:
    """Keys were URLs once."""
    return key.partition("://")[2].partition("/")[0] if "://" in key else key.partition("/")[0]


def _decode(entry: dict[str, Any], path: Path, key: str) -> Found:
    token = str(entry.get("identitytoken") or "")
    username, password = str(entry.get("username") or ""), str(entry.get("password") or "")
    if entry.get("auth"):
        try:
            text = base64.b64decode(str(entry["auth"]), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise InvalidArgument(f"{path}: the auth of {key} is not base64 of USER:PASSWORD") from None
        username, _, password = text.partition(":")
        password = password.rstrip("\0")
    if not (token or username):
        return NONE
    return Found(username, password, token, str(path))
