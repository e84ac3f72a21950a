"""After a loss: records that are older than what is on disk, brought up to it.

What is recorded and gone is dropped. Each snapshot's object tells its namespace and key. Images that the records do not know
are found by their manifests, and come back in the namespace `default` under their digest; so do blobs that belong to none,
which are then collected like any other.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from intermodal_core.contracts.common import Descriptor
from intermodal_core.contracts.content import BlobInfo
from intermodal_core.contracts.managers.collector import Finding, Rebuilt
from intermodal_core.contracts.managers.store import INTERNAL_REF, ContentInfo, Image, Scope
from intermodal_core.contracts.metadata import Transaction
from intermodal_core.errors import IntermodalError, InvalidArgument
from intermodal_oci.chain import chain_ids
from intermodal_oci.children import children_labels
from intermodal_oci.model import Index, Manifest, decode_config, decode_index, decode_manifest

from intermodal_store.names import enter, now
from intermodal_store.tables import CONTENT, IMAGES, SNAPSHOTS, SnapshotRow

if TYPE_CHECKING:
    from intermodal_store.store import Store

__all__ = ["rebuild"]

log = logging.getLogger("intermodal.store")

_NAMESPACE = "default"
#: Bytes of the largest document that is looked at.
_DOCUMENT = 4 << 20


async def rebuild(store: Store, content: Any, source: str) -> Rebuilt:
    """Before anybody is served. Idempotent, for one that was cut off."""
    blobs = {blob.digest: blob for blob in await content.walk()}
    gone = await store.write(lambda tx: _drop_gone(tx, set(blobs)))
    returned: list[Finding] = []
    for name in store.snapshots.used():
        try:
            backend = await store.registry.require("snapshotters", name)
            infos = await backend.walk()
        except IntermodalError as error:
            log.warning("what is in %s stays unknown: %s", name, error)
            continue
        returned += await store.write(partial(_take_snapshots, snapshotter=name, infos=infos))
    known = await store.read(lambda tx: {info.digest for info in tx.scan(CONTENT)}, long=True)
    unknown = [blob for digest, blob in blobs.items() if digest not in known]
    documents = {blob.digest: found for blob in unknown if (found := await _document(content, blob)) is not None}
    configs = [each.config.digest for each in documents.values() if isinstance(each, Manifest)]
    chains = {
        digest: chain for digest in configs if digest in blobs and (chain := await _chain(content, blobs[digest]))
    }
    images = await store.write(lambda tx: _take_blobs(tx, unknown, documents, chains, set(blobs)))
    images_of = {each.key for each in images}
    returned += [
        Finding("content", _NAMESPACE, blob.digest, "a blob") for blob in unknown if blob.digest not in images_of
    ]
    log.warning("the records were rebuilt from %s: %d images came back under their digests", source, len(images))
    return Rebuilt(source, tuple(images), tuple(returned), tuple(gone))


def _drop_gone(tx: Transaction, blobs: set[str]) -> list[Finding]:
    gone = []
    for info in list(tx.scan(CONTENT)):
        if info.digest not in blobs:
            tx.delete(CONTENT, info.namespace, info.digest)
            gone.append(Finding("content", info.namespace, info.digest, "it was recorded, and its bytes are gone"))
    return gone


def _take_snapshots(tx: Transaction, snapshotter: str, infos: list[Any]) -> list[Finding]:
    """Rows for objects that have none; an object's key is NAMESPACE/UNIQUE/KEY."""
    rows = list(tx.scan(SNAPSHOTS, snapshotter, index="by_snapshotter"))
    keys = {row.object: row.key for row in rows} | {row.becomes: row.named for row in rows if row.becomes}
    found = []
    for info in infos:
        namespace, _, rest = info.key.partition("/")
        key = rest.partition("/")[2]
        taken = not key or key.startswith(INTERNAL_REF) or tx.get(SNAPSHOTS, namespace, snapshotter, key) is not None
        if info.key in keys or taken:
            continue
        parent = info.parent.partition("/")[2].partition("/")[2]
        enter(tx, Scope(namespace))
        tx.put(
            SNAPSHOTS,
            SnapshotRow(
                namespace, snapshotter, key, info.key, parent, info.kind, info.created_at, now(), dict(info.labels)
            ),
        )
        found.append(Finding(f"snapshots/{snapshotter}", namespace, key, "a snapshot"))
    return found


def _take_blobs(
    tx: Transaction,
    unknown: list[BlobInfo],
    documents: dict[str, Index | Manifest],
    chains: dict[str, str],
    there: set[str],
) -> list[Finding]:
    """Records of the blobs; of whole images that no other document names, image records as well."""
    if unknown:
        enter(tx, Scope(_NAMESPACE))
    for blob in unknown:
        document = documents.get(blob.digest)
        labels = children_labels(document, there) if document is not None else {}
        if chain := chains.get(blob.digest):
            for row in tx.scan(SNAPSHOTS, _NAMESPACE):
                if row.key == chain:
                    labels[f"containerd.io/gc.ref.snapshot.{row.snapshotter}"] = chain
        tx.put(CONTENT, ContentInfo(_NAMESPACE, blob.digest, blob.size, labels, blob.created_at, now()))
    named = {digest for document in documents.values() for digest in _children(document)}
    sizes = {blob.digest: blob.size for blob in unknown}
    found = []
    for digest, document in documents.items():
        whole = isinstance(document, Index) or set(_children(document)) <= there
        if digest in named or not whole or not set(_children(document)) & there:
            continue
        target = Descriptor(document.media_type or _media_type(document), digest, sizes[digest])
        tx.put(IMAGES, Image(_NAMESPACE, digest, target, {}, now(), now()))
        found.append(
            Finding("images", _NAMESPACE, digest, "an image that the records did not know; imod images tag names it")
        )
    return found


def _children(document: Index | Manifest) -> Iterator[str]:
    if isinstance(document, Index):
        yield from (each.digest for each in document.manifests)
    else:
        yield document.config.digest
        yield from (each.digest for each in document.layers)


def _media_type(document: Index | Manifest) -> str:
    kind = "index" if isinstance(document, Index) else "manifest"
    return f"application/vnd.oci.image.{kind}.v1+json"


async def _document(content: Any, blob: BlobInfo) -> Index | Manifest | None:
    """A blob as an index or a manifest; None where it is neither."""
    data = await _read(content, blob)
    if data.lstrip()[:1] != b"{":
        return None
    try:
        shape = msgspec.json.decode(data)
        if not isinstance(shape, dict) or shape.get("schemaVersion") != 2:
            return None
        return decode_index(data, blob.digest) if "manifests" in shape else decode_manifest(data, blob.digest)
    except (msgspec.MsgspecError, InvalidArgument):
        return None


async def _chain(content: Any, blob: BlobInfo) -> str:
    """The chain id of the layers that a config names; "" where it is no config."""
    try:
        chain = chain_ids(decode_config(await _read(content, blob), blob.digest).rootfs.diff_ids)
    except InvalidArgument:
        return ""
    return chain[-1] if chain else ""


async def _read(content: Any, blob: BlobInfo) -> bytes:
    if blob.size > _DOCUMENT:
        return b""
    fd = await content.open(blob.digest)
    try:
        return os.pread(fd, blob.size, 0)
    finally:
        os.close(fd)
