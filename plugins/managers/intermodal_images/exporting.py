"""Images as archives: an OCI layout that is a Docker archive as well, or a Docker archive alone, as a tar that streams.

The layout has `index.json`, and `manifest.json` for Docker's tools; both point at the same blobs, so that digests stay as they are.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import tarfile
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from intermodal_core.contracts.common import Descriptor, Platform
from intermodal_core.contracts.managers.images import Progress, Report
from intermodal_core.contracts.managers.store import Image, Scope, Store
from intermodal_core.errors import Cancelled, InvalidArgument, NotFound, from_os_error
from intermodal_oci import references
from intermodal_oci.model import OCI_INDEX, DockerArchiveEntry, Index, Layout, encode

from intermodal_images.threads import on_thread
from intermodal_images.tree import Tree

__all__ = ["FORMATS", "export"]

FORMATS: Final = ("oci", "docker")
_NAME: Final = "io.containerd.image.name"
_TAG: Final = "org.opencontainers.image.ref.name"
_PIECE: Final = 1 << 20
_SMALL: Final = 4096  # what a pipe that poll(2) says is ready takes without waiting
_PATIENCE: Final = 200
_BLOCK: Final = 512


async def export(
    store: Store,
    scope: Scope,
    images: Sequence[Image],
    into: int,
    format: str,
    platform: Platform | None,
    wanted: Platform,
    report: Report | None,
) -> None:
    """Write the images to the descriptor `into`; with `platform` of each index only what that one needs."""
    if format not in FORMATS:
        raise InvalidArgument(f"there is no archive format {format}; there are {', '.join(FORMATS)}")
    tree = Tree(store, scope)
    needed: dict[str, None] = {}
    for image in images:
        try:
            for digest in sorted(await tree.reachable(image.target, platform or wanted)):
                needed[digest] = None
        except NotFound as error:
            raise NotFound(
                f"{image.name} cannot be exported, since not all of it is here: {error}; "
                f"fetch it again: imod images pull {image.name}"
            ) from error
    documents, names = await _documents(tree, images, format, wanted)
    if format == "docker":
        needed = dict.fromkeys(digest for digest in needed if digest in names)
    writer = _Writer(os.dup(into))
    try:
        sizes = {digest: (await store.content.info(scope, digest)).size for digest in needed}
        total, done = sum(sizes.values()), 0
        for name, data in documents.items():
            await on_thread(_writing(writer, name, data), writer.stop)
        for digest, size in sizes.items():
            file = await store.content.open(scope, digest)
            try:
                path = names.get(digest) or f"blobs/{digest.replace(':', '/', 1)}"
                await on_thread(_copying(writer, path, file, size), writer.stop)
            finally:
                os.close(file)
            done += size
            if report is not None:
                report(Progress("export", images[0].name, done, total))
        await on_thread(writer.end, writer.stop)
    except OSError as error:
        raise from_os_error(error, "writing the archive") from error
    finally:
        writer.close()


async def _documents(
    tree: Tree, images: Sequence[Image], format: str, wanted: Platform
) -> tuple[dict[str, bytes], dict[str, str]]:
    """The documents by name; and in Docker's own format the paths of blobs."""
    entries, targets = [], []
    paths: dict[str, str] = {}
    for image in images:
        reference = references.parse(image.name)
        annotations = {**image.target.annotations, _NAME: image.name, _TAG: reference.tag or ""}
        target = Descriptor(image.target.media_type, image.target.digest, image.target.size)
        targets.append(msgspec.structs.replace(target, annotations=annotations))
        try:
            _, manifest = await tree.manifest(image.target, wanted)
        except NotFound:
            continue  # for another platform; Docker's document has one image a name
        if format == "docker":
            paths[manifest.config.digest] = f"{manifest.config.digest[7:]}.json"
            paths |= {layer.digest: f"{layer.digest[7:]}/layer.tar" for layer in manifest.layers}
        else:
            blobs = (manifest.config, *manifest.layers)
            paths |= {blob.digest: f"blobs/{blob.digest.replace(':', '/', 1)}" for blob in blobs}
        entries.append(
            DockerArchiveEntry(
                config=paths[manifest.config.digest],
                repo_tags=(reference.familiar,) if reference.tag else (),
                layers=tuple(paths[layer.digest] for layer in manifest.layers),
            )
        )
    documents = {"manifest.json": msgspec.json.encode(entries)} if entries else {}
    if format == "oci":
        index = Index(schema_version=2, media_type=OCI_INDEX, manifests=tuple(targets))
        documents = {"oci-layout": encode(Layout()), "index.json": encode(index), **documents}
    elif not entries:
        raise NotFound("none of the images is for this platform: choose one by --platform, or the format oci")
    return documents, paths


def _writing(writer: _Writer, name: str, data: bytes) -> Callable[[], None]:
    def write() -> None:
        writer.header(name, len(data))
        writer.write(data)
        writer.pad(len(data))

    return write


def _copying(writer: _Writer, name: str, file: int, size: int) -> Callable[[], None]:
    def copy() -> None:
        writer.header(name, size)
        writer.copy(file, size)
        writer.pad(size)

    return copy


class _Writer:
    """A tar on a descriptor that whoever reads it may stop reading; `stop` ends what waits for that. Raises OSError."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pipe = stat.S_ISFIFO(os.fstat(fd).st_mode)
        self._stopped = False
        self._directories: set[str] = set()

    def stop(self) -> None:
        """Give up soon."""
        self._stopped = True

    def header(self, name: str, size: int) -> None:
        """Begin a file; directories on its way come first."""
        parts = name.split("/")
        for end in range(1, len(parts)):
            directory = "/".join(parts[:end])
            if directory not in self._directories:
                self._directories.add(directory)
                info = tarfile.TarInfo(directory)
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                self.write(info.tobuf(tarfile.PAX_FORMAT))
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o644
        self.write(info.tobuf(tarfile.PAX_FORMAT))

    def pad(self, size: int) -> None:
        """Fill the last block."""
        self.write(bytes(-size % _BLOCK))

    def end(self) -> None:
        """The zeros at the end."""
        self.write(bytes(2 * _BLOCK))

    def write(self, data: bytes) -> None:
        """Bytes from memory."""
        view = memoryview(data)
        while view:
            self._ready()
            view = view[os.write(self._fd, view[:_SMALL] if self._pipe else view) :]

    def copy(self, file: int, size: int) -> None:
        """Bytes from a file."""
        at = 0
        while at < size:
            self._ready()
            count = min(_PIECE, size - at)
            if self._pipe:
                try:
                    done = os.splice(file, self._fd, count, offset_src=at, flags=os.SPLICE_F_NONBLOCK)
                except BlockingIOError:
                    continue
            else:
                try:
                    done = os.sendfile(self._fd, file, at, count)
                except OSError as error:
                    if error.errno != errno.EINVAL:
                        raise
                    done = os.write(self._fd, os.pread(file, count, at))
            if not done:
                raise OSError(errno.EIO, "the blob is shorter than its record says")
            at += done

    def _ready(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while not poll.poll(_PATIENCE if self._pipe else 0):
            if self._stopped:
                break
        if self._stopped:
            raise Cancelled("the export was given up")

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)
