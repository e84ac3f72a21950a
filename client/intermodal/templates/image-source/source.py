"""An image source without a registry: repositories are directories, each an OCI image layout.

ROOT/PATH/index.json           what is there: manifests, tagged by `org.opencontainers.image.ref.name`
ROOT/PATH/blobs/sha256/HEX
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from intermodal_core.contracts.common import Descriptor
from intermodal_core.contracts.image_sources import Access, Host, Resolved
from intermodal_core.errors import InvalidArgument, NotFound, Unavailable

__all__ = ["SampleSource"]

_TAG = "org.opencontainers.image.ref.name"
_DOCUMENTS = re.compile(r"application/vnd\.(oci\.image\.(index|manifest)|docker\.distribution\.manifest).*json")
_PIECE = 1 << 20


class _Name(NamedTuple):
    text: str
    path: str
    tag: str
    digest: str


class SampleSource:
    """Implements `intermodal_core.contracts.image_sources.ImageSource` for the names of one host."""

    def __init__(self, root: Path, host: str) -> None:
        self._root = root
        self._host = host
        self._names = re.compile(
            re.escape(host) + r"/([a-z0-9]+(?:[._/-]+[a-z0-9]+)*)(?::([\w][\w.-]{0,127}))?(?:@(sha256:[0-9a-f]{64}))?"
        )
        self._lock = threading.Lock()

    async def resolve(self, name: str, access: Access | None = None) -> Resolved:
        """[I3]."""
        found = self._parse(name)
        return Resolved(name, await asyncio.to_thread(self._find, found), self._url(found))

    async def fetch(
        self, name: str, target: Descriptor, offset: int = 0, length: int = -1, access: Access | None = None
    ) -> _Body:
        """[I4]."""
        found = self._parse(name)
        try:
            fd = os.open(self._blob(found, target.digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound(f"{self._url(found)} has no {target.digest}") from None
        whole = os.fstat(fd).st_size
        end = whole if length < 0 else min(whole, offset + length)
        return _Body(self._url(found), fd, offset, end)

    async def push(
        self, name: str, target: Descriptor, content: int, access: Access | None = None, mount_from: str = ""
    ) -> bool:
        """[I5]."""
        return await asyncio.to_thread(self._push, self._parse(name), target, content)

    async def tags(self, name: str, access: Access | None = None) -> list[str]:
        """[I6]."""
        found = self._parse(name)
        index = await asyncio.to_thread(self._index, found)
        return [each.annotations[_TAG] for each in index if _TAG in each.annotations]

    async def referrers(
        self, name: str, digest: str, artifact_type: str = "", access: Access | None = None
    ) -> list[Descriptor]:
        """[I7]."""
        return await asyncio.to_thread(self._referrers, self._parse(name), digest, artifact_type)

    async def explain(self, name: str, access: Access | None = None) -> list[Host]:
        """[I8]."""
        found = self._parse(name)
        try:
            answer = (await asyncio.to_thread(self._find, found)).digest
        except NotFound as error:
            answer = str(error)
        can = ("pull", "resolve", "push", "referrers")
        return [Host(self._url(found), can, "a directory of this machine", "", "the plugin's option root", answer)]

    # On a thread.

    def _parse(self, name: str) -> _Name:
        match = self._names.fullmatch(name)
        if match is None:
            raise InvalidArgument(f"{name!r} is not of this source: {self._host}/PATH:TAG or {self._host}/PATH@DIGEST")
        return _Name(name, match[1], match[2] or "", match[3] or "")

    def _url(self, name: _Name) -> str:
        return f"file://{self._root / name.path}"

    def _blob(self, name: _Name, digest: str) -> Path:
        return self._root / name.path / "blobs" / digest.replace(":", "/")

    def _index(self, name: _Name) -> list[Descriptor]:
        path = self._root / name.path / "index.json"
        try:
            index: dict[str, Any] = msgspec.json.decode(path.read_bytes())
        except FileNotFoundError:
            raise NotFound(f"there is no repository {self._url(name)}") from None
        return msgspec.convert(index["manifests"], list[Descriptor])

    def _find(self, name: _Name) -> Descriptor:
        tag = name.tag or "latest"
        for each in self._index(name):
            if each.digest == name.digest or (not name.digest and each.annotations.get(_TAG) == tag):
                return msgspec.structs.replace(each, annotations={})
        raise NotFound(f"{self._url(name)} has no {name.digest or tag}")

    def _push(self, name: _Name, target: Descriptor, content: int) -> bool:
        blob = self._blob(name, target.digest)
        sent = not blob.exists()
        if sent:
            blob.parent.mkdir(parents=True, exist_ok=True)
            new = blob.with_name(f"{blob.name}.{threading.get_ident()}")
            with open(os.dup(content), "rb") as source, open(new, "wb") as file:
                source.seek(0)
                shutil.copyfileobj(source, file, _PIECE)
                file.flush()
                os.fsync(file.fileno())
            new.rename(blob)
        if _DOCUMENTS.fullmatch(target.media_type):
            with self._lock:
                self._record(name, target)
        return sent

    def _record(self, name: _Name, target: Descriptor) -> None:
        top = self._root / name.path
        try:
            others = [each for each in self._index(name) if each.annotations.get(_TAG, "") != name.tag or not name.tag]
        except NotFound:
            others = []
        entry = msgspec.structs.replace(target, annotations={_TAG: name.tag} if name.tag else {})
        manifests = [*(each for each in others if each != entry), entry]
        for path, value in (
            (top / "oci-layout", {"imageLayoutVersion": "1.0.0"}),
            (top / "index.json", {"schemaVersion": 2, "manifests": manifests}),
        ):
            new = path.with_suffix(".new")
            new.write_bytes(msgspec.json.encode(value))
            new.rename(path)

    def _referrers(self, name: _Name, digest: str, artifact_type: str) -> list[Descriptor]:
        found: dict[str, Descriptor] = {}
        for each in self._index(name):
            document: dict[str, Any] = msgspec.json.decode(self._blob(name, each.digest).read_bytes())
            kind = document.get("artifactType") or document.get("config", {}).get("mediaType", "")
            if document.get("subject", {}).get("digest") == digest and artifact_type in ("", kind):
                found[each.digest] = msgspec.structs.replace(each, artifact_type=kind, annotations={})
        return list(found.values())


class _Body:
    """Implements `intermodal_core.contracts.image_sources.Body` for a part of a file."""

    ranges = True

    def __init__(self, host: str, fd: int, offset: int, end: int) -> None:
        self.host = host
        self._fd = fd
        self._offset = offset
        self._end = end

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """[I9]."""
        while self._offset < self._end and self._fd >= 0:
            size = min(_PIECE, self._end - self._offset)
            piece = await asyncio.to_thread(os.pread, self._fd, size, self._offset)
            if not piece:
                raise Unavailable(f"{self.host} became shorter while it was read")
            self._offset += len(piece)
            yield piece

    async def aclose(self) -> None:
        """[I10]."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
