"""Registries as an image source: OCI distribution 1.1 and Docker's v2."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urljoin

from intermodal_core.contracts.common import Descriptor
from intermodal_core.contracts.image_sources import Access, Body, Host, Resolved
from intermodal_core.errors import FailedPrecondition, IntermodalError, NotFound, Unavailable, Unimplemented
from intermodal_oci import references
from intermodal_oci.model import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    MAX_DOCUMENT,
    OCI_INDEX,
    OCI_MANIFEST,
    decode_index,
    is_index,
    is_manifest,
)
from intermodal_oci.references import Reference

from intermodal_registry.client import Client, Http
from intermodal_registry.credentials import Credentials
from intermodal_registry.download import Download, all_attempts
from intermodal_registry.hosts import servers_of
from intermodal_registry.settings import Settings

if TYPE_CHECKING:
    from intermodal_core.spawner import Spawner

__all__ = ["RegistrySource"]

_DOCUMENTS: Final = f"{OCI_INDEX}, {OCI_MANIFEST}, {DOCKER_INDEX}, {DOCKER_MANIFEST}"
_PIECE: Final = 1 << 20
_PAGES: Final = 1000
_NEXT: Final = re.compile(r'<([^>]+)>\s*;\s*rel="?next"?')


class RegistrySource:
    """Implements `intermodal_core.contracts.image_sources.ImageSource`; use it on one event loop, `close` it there."""

    def __init__(self, settings: Settings, spawner: Spawner) -> None:
        self._settings = settings
        self._http = Http(settings, Credentials(settings.credentials, spawner))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()

    async def __aenter__(self) -> RegistrySource:
        """Nothing is opened before it is needed."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()

    async def resolve(self, name: str, access: Access | None = None) -> Resolved:
        """See the contract."""
        reference, clients = self._clients(name, "resolve", access)
        failures = []
        for client in clients:
            try:
                target = await self._head(client, reference)
                return Resolved(name, target, client.server.url)
            except IntermodalError as error:
                failures.append(error)
        raise all_attempts(failures)

    async def _head(self, client: Client, reference: Reference) -> Descriptor:
        path = f"/{reference.path}/manifests/{reference.digest or reference.tag or references.DEFAULT_TAG}"
        scope = _scope(reference, "pull")
        headers = {"Accept": f"{_DOCUMENTS}, */*"}
        response = await client.request("HEAD", path, scope, headers=headers, accept=(405,))
        length, digest = response.headers.get("Content-Length", ""), response.headers.get("Docker-Content-Digest", "")
        response.close()
        if response.status == 405 or not digest or not length.isdecimal():
            # The digest is optional; the document itself tells it.
            response = await client.request("GET", path, scope, headers=headers)
            data = await _document(response)
            digest, length = f"sha256:{hashlib.sha256(data).hexdigest()}", str(len(data))
        media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
        if not (is_index(media_type) or is_manifest(media_type)):
            raise FailedPrecondition(
                f"{response.url} is of the media type {media_type or '(none)'}, which is no image manifest or index that can be "
                "read; an image of schema version 1 must be pushed anew"
            )
        references.validate_digest(digest)
        if reference.digest and digest != reference.digest:
            raise FailedPrecondition(f"{response.url}: it answers {digest} to a question for {reference.digest}")
        return Descriptor(media_type, digest, int(length))

    async def fetch(
        self, name: str, target: Descriptor, offset: int = 0, length: int = -1, access: Access | None = None
    ) -> Body:
        """See the contract."""
        reference, clients = self._clients(name, "pull", access)
        document = is_index(target.media_type) or is_manifest(target.media_type)
        download = Download(
            clients,
            f"/{reference.path}/{'manifests' if document else 'blobs'}/{target.digest}",
            _scope(reference, "pull"),
            self._settings,
            size=target.size,
            offset=offset,
            length=length,
            accept=f"{target.media_type}, */*" if document else "*/*",
        )
        return await download.begin()

    async def push(
        self, name: str, target: Descriptor, content: int, access: Access | None = None, mount_from: str = ""
    ) -> bool:
        """See the contract."""
        reference, clients = self._clients(name, "push", access)
        scope = _scope(reference, "pull,push")
        failures = []
        for client in clients:
            try:
                if is_index(target.media_type) or is_manifest(target.media_type):
                    return await self._push_document(client, reference, scope, target, content)
                return await self._push_blob(client, reference, scope, target, content, mount_from)
            except IntermodalError as error:
                failures.append(error)
        raise all_attempts(failures)

    async def _push_document(
        self, client: Client, reference: Reference, scope: str, target: Descriptor, content: int
    ) -> bool:
        data = os.pread(content, MAX_DOCUMENT + 1, 0)
        where = reference.digest or reference.tag or references.DEFAULT_TAG
        path = f"/{reference.path}/manifests/{where}"
        response = await client.request("PUT", path, scope, headers={"Content-Type": target.media_type}, data=data)
        told = response.headers.get("Docker-Content-Digest", target.digest)
        response.close()
        if told != target.digest:
            raise FailedPrecondition(f"PUT {client.server.url}{path}: it stored {told}, and {target.digest} was sent")
        return True

    async def _push_blob(
        self, client: Client, reference: Reference, scope: str, target: Descriptor, content: int, mount_from: str
    ) -> bool:
        known = await client.request("HEAD", f"/{reference.path}/blobs/{target.digest}", scope, accept=(404,))
        known.close()
        if known.status == 200:
            return False
        failure: IntermodalError | None = None
        for _ in range(self._settings.attempts):
            query = {"mount": target.digest, "from": mount_from} if mount_from else None
            begun = await client.request("POST", f"/{reference.path}/blobs/uploads/", scope, params=query, data=b"")
            begun.close()
            if begun.status == 201:
                return False
            location = urljoin(str(begun.url), begun.headers.get("Location", ""))
            if begun.status != 202 or not begun.headers.get("Location"):
                raise FailedPrecondition(f"POST {begun.url}: {begun.status} begins no upload")
            separator = "&" if "?" in location else "?"
            headers = {"Content-Type": "application/octet-stream", "Content-Length": str(target.size)}
            try:
                done = await client.request(
                    "PUT",
                    f"{location}{separator}digest={target.digest}",
                    scope,
                    headers=headers,
                    data=_pieces(content, target.size),
                )
            except Unavailable as error:  # broke off: from the beginning
                failure = error
                continue
            done.close()
            return True
        assert failure is not None
        raise failure

    async def tags(self, name: str, access: Access | None = None) -> list[str]:
        """See the contract."""
        reference, clients = self._clients(name, "resolve", access)
        failures = []
        for client in clients:
            try:
                return await self._tags(client, reference)
            except IntermodalError as error:
                failures.append(error)
        raise all_attempts(failures)

    async def _tags(self, client: Client, reference: Reference) -> list[str]:
        found: list[str] = []
        path: str = f"/{reference.path}/tags/list"
        for _ in range(_PAGES):
            response = await client.request("GET", path, _scope(reference, "pull"))
            page = _object(await _document(response), str(response.url)).get("tags") or []
            if not isinstance(page, list) or not all(isinstance(tag, str) for tag in page):
                raise FailedPrecondition(f"{response.url}: its list of tags is none")
            found += page
            following = _NEXT.search(response.headers.get("Link", ""))
            if following is None:
                return found
            path = urljoin(str(response.url), following[1])
        raise FailedPrecondition(f"{client.server.url}: its list of tags has more than {_PAGES} pages")

    async def referrers(
        self, name: str, digest: str, artifact_type: str = "", access: Access | None = None
    ) -> list[Descriptor]:
        """See the contract."""
        reference, clients = self._clients(name, "resolve", access)
        failures: list[IntermodalError] = []
        for client in clients:
            try:
                found = await self._referrers(client, reference, digest, artifact_type)
                return [each for each in found if not artifact_type or each.artifact_type in ("", artifact_type)]
            except IntermodalError as error:
                failures.append(error)
        raise all_attempts(failures)

    async def _referrers(
        self, client: Client, reference: Reference, digest: str, artifact_type: str
    ) -> list[Descriptor]:
        """By the API, else under the tag that stands in for it (distribution specification 1.1, "Listing Referrers")."""
        scope = _scope(reference, "pull")
        query = {"artifactType": artifact_type} if artifact_type else None
        path = f"/{reference.path}/referrers/{digest}"
        headers = {"Accept": OCI_INDEX}
        # A registry that does not know the API may say so by any refusal.
        response = await client.request("GET", path, scope, headers=headers, params=query, accept=(400, 404, 405))
        if response.status != 200:
            response.close()
            path = f"/{reference.path}/manifests/{digest.replace(':', '-', 1)}"
            response = await client.request("GET", path, scope, headers=headers, accept=(404,))
        if response.status == 404:
            response.close()
            return []
        return list(decode_index(await _document(response), str(response.url)).manifests)

    async def explain(self, name: str, access: Access | None = None) -> list[Host]:
        """See the contract."""
        access = access or Access()
        reference = references.parse(name)
        hosts = []
        for server in servers_of(reference.domain, self._settings.hosts, access):
            client = Client(self._http, server, reference.domain, access)
            credentials = answer = ""
            try:
                credentials = (await client.credentials()).origin
                if "resolve" in server.capabilities:
                    target = await self._head(client, reference)
                    answer = f"{target.digest} ({target.media_type})"
            except IntermodalError as error:
                answer = error.message
            hosts.append(Host(server.url, server.capabilities, server.trust, credentials, server.origin, answer))
        return hosts

    def _clients(self, name: str, capability: str, access: Access | None) -> tuple[Reference, list[Client]]:
        reference = references.parse(name)
        access = access or Access()
        servers = servers_of(reference.domain, self._settings.hosts, access)
        able = [server for server in servers if capability in server.capabilities]
        if not able:
            asked = ", ".join(f"{server.url} ({server.origin})" for server in servers)
            raise Unimplemented(f"no host of {reference.domain} has the capability {capability}: {asked}")
        return reference, [Client(self._http, server, reference.domain, access) for server in able]


def _scope(reference: Reference, actions: str) -> str:
    return f"repository:{reference.path}:{actions}"


async def _document(response: Any) -> bytes:
    """The body of a small answer. Raises FailedPrecondition for one that is not small."""
    try:
        data = bytearray()
        while piece := await response.content.readany():
            data += piece
            if len(data) > MAX_DOCUMENT:
                raise FailedPrecondition(f"{response.url} has more than {MAX_DOCUMENT} bytes, too many for a document")
        return bytes(data)
    except (TimeoutError, OSError) as error:
        raise Unavailable(f"{response.url}: {type(error).__name__}: {error}") from error
    finally:
        response.close()


def _object(data: bytes, where: str) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise FailedPrecondition(f"{where} answers no JSON object")
    return found


async def _pieces(content: int, size: int) -> AsyncIterator[bytes]:
    at = 0
    while at < size:
        data = os.pread(content, min(_PIECE, size - at), at)
        if not data:
            raise NotFound(f"the blob to push ends after {at} of {size} bytes")
        at += len(data)
        yield data
