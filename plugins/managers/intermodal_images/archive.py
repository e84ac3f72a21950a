"""Reads an image archive, a tar in one pass, into the store.

Documents (`index.json`, `manifest.json`, ...) stay in memory; every other file becomes a blob. Blobs below `blobs/` say by
their path which digest they must have.
"""

from __future__ import annotations

import io
import os
import select
import tarfile
import zlib
from collections.abc import Callable
from typing import IO, Any, cast

from intermodal_core.errors import InvalidArgument
from intermodal_oci.references import validate_digest

from intermodal_images.blobs import Blobs, Cancelled

__all__ = ["Archive", "read_archive"]

_CHUNK = 1 << 20
#: Milliseconds after which a reader that waits looks whether it is still wanted.
_PATIENCE = 200
_DOCUMENTS = ("index.json", "oci-layout", "manifest.json", "repositories")
_DOCUMENT_LIMIT = 8 << 20


class Archive:
    """What was in it: documents by name; digest, size and first bytes of every other file by its path."""

    def __init__(self) -> None:
        self.documents: dict[str, bytes] = {}
        self.files: dict[str, tuple[str, int, bytes]] = {}

    def blob(self, path: str) -> tuple[str, int, bytes]:
        """A file that a document names. Raises InvalidArgument when it was not there."""
        found = self.files.get(os.path.normpath(path))
        if found is None:
            raise InvalidArgument(f"the archive names {path}, and there is no such file in it")
        return found


def read_archive(fd: int, blobs: Blobs, progress: Callable[[int], None]) -> Archive:
    """Read the archive to its end, on a thread; `progress(bytes read)` is called now and then.

    Raises InvalidArgument when it is no tar, is truncated, or a blob's bytes are not what its path says; Cancelled soon
    after `blobs.stopped` is set, also while nothing comes.
    """
    archive = Archive()
    links: dict[str, str] = {}
    source = _Source(fd, progress, blobs)
    try:
        with tarfile.open(fileobj=_decompressed(source), mode="r|", bufsize=_CHUNK) as tar:
            for member in tar:
                path = os.path.normpath(member.name)
                if member.issym():
                    links[path] = os.path.normpath(os.path.join(os.path.dirname(path), member.linkname))
                elif member.islnk():
                    links[path] = os.path.normpath(member.linkname)
                elif member.isfile():
                    content = tar.extractfile(member)
                    assert content is not None
                    _take(archive, path, member.size, content, blobs)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise InvalidArgument(f"the archive cannot be read after {source.count} bytes: {error}") from error
    source.drain()
    for path, target in links.items():
        if target in archive.files:
            archive.files[path] = archive.files[target]
        elif target in archive.documents:
            archive.documents[path] = archive.documents[target]
    return archive


def _take(archive: Archive, path: str, size: int, content: IO[bytes], blobs: Blobs) -> None:
    if path in _DOCUMENTS:
        if size > _DOCUMENT_LIMIT:
            raise InvalidArgument(f"{path} of the archive has {size} bytes (at most {_DOCUMENT_LIMIT})")
        archive.documents[path] = content.read()
        return
    parts = path.split("/")
    expected = ""
    if len(parts) == 3 and parts[0] == "blobs":
        expected = validate_digest(f"{parts[1]}:{parts[2]}")
    if size == 0:
        return
    writer = blobs.writer(expected, size)
    first = b""
    while data := content.read(_CHUNK):
        first = first or data[:8]
        if writer.known is None:
            writer.write(data)
    if writer.known is not None:
        archive.files[path] = (expected, writer.known.size, first)
    else:
        digest, written = writer.commit()
        archive.files[path] = (digest, written, first)


class _Source(io.RawIOBase):
    """The descriptor as a file, counted."""

    def __init__(self, fd: int, progress: Callable[[int], None], blobs: Blobs) -> None:
        self._fd = fd
        self._progress = progress
        self._blobs = blobs
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self.count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._wait()
        count = os.readv(self._fd, [buffer])
        self.count += count
        self._progress(self.count)
        return count

    def drain(self) -> None:
        """Read what follows the end of the archive, so that whoever writes it is not cut off."""
        self._wait()
        while os.read(self._fd, _CHUNK):
            self._wait()

    def _wait(self) -> None:
        """Return when a read would not wait."""
        ready = False
        while not ready:
            ready = bool(self._poll.poll(_PATIENCE))
            if self._blobs.stopped:
                raise Cancelled


def _decompressed(source: _Source) -> IO[bytes]:
    buffered = io.BufferedReader(source, _CHUNK)
    magic = buffered.peek(4)[:4]
    if magic.startswith(b"\x1f\x8b"):
        from isal import igzip

        file: Any = igzip.GzipFile(fileobj=buffered, mode="rb")  # type: ignore[no-untyped-call]
        return cast("IO[bytes]", file)
    if magic == b"\x28\xb5\x2f\xfd":
        import zstandard

        return zstandard.ZstdDecompressor().stream_reader(buffered, read_across_frames=True)
    return buffered
