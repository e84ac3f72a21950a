"""Records, blobs and snapshots against each other."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from intermodal_core.contracts.managers.collector import Finding
from intermodal_core.contracts.managers.store import Container, Image
from intermodal_core.errors import IntermodalError

from intermodal_store.marking import Marked
from intermodal_store.references import Node, forward
from intermodal_store.tables import TOMBSTONES, SnapshotRow

if TYPE_CHECKING:
    from intermodal_store.store import Store

__all__ = ["check"]

_CHUNK = 1 << 20


async def check(store: Store, content: Any, marked: Marked, deep: bool) -> list[Finding]:
    """What does not fit; of a daemon at work, what is being made or removed just now is left out.

    `deep`: every blob is read, and its digest compared.
    """
    tombs = {(row.kind, row.object) for row in await store.read(lambda tx: list(tx.scan(TOMBSTONES)), long=True)}
    found = [Finding("metadata", "", "", sentence) for sentence in await store.check_metadata()]
    found += [each async for each in _blobs(store, content, marked, tombs, deep)]
    found += [each async for each in _snapshots(store, marked, tombs)]
    found += _references(marked)
    return found


async def _blobs(
    store: Store, content: Any, marked: Marked, tombs: set[tuple[str, str]], deep: bool
) -> AsyncIterator[Finding]:
    blobs = {blob.digest: blob for blob in await content.walk()}
    records = {node: record for node, record in marked.records.items() if node.type == "content"}
    for node, record in records.items():
        blob = blobs.get(node.key)
        if blob is None:
            yield Finding(*node, "its bytes are gone: pull or import again what it belongs to")
        elif blob.size != record.size:
            yield Finding(*node, f"it has {blob.size} bytes, and its record says {record.size}")
        elif deep and (actual := await _digest(content, node.key)) != node.key:
            yield Finding(
                *node, f"its bytes have the digest {actual}: the disk has changed them; pull or import it again"
            )
    known = {node.key for node in records}
    for digest, blob in blobs.items():
        if digest not in known and ("content", digest) not in tombs and blob.created_at < store.began:
            yield Finding("content", "", digest, "there is no record of it: imod fsck --rebuild takes it in")


async def _digest(content: Any, digest: str) -> str:
    fd = await content.open(digest)

    def read() -> str:
        try:
            found = hashlib.sha256()
            while data := os.read(fd, _CHUNK):
                found.update(data)
            return f"sha256:{found.hexdigest()}"
        finally:
            os.close(fd)

    return await asyncio.to_thread(read)


async def _snapshots(store: Store, marked: Marked, tombs: set[tuple[str, str]]) -> AsyncIterator[Finding]:
    rows = [record for record in marked.records.values() if isinstance(record, SnapshotRow)]
    for name in sorted({row.snapshotter for row in rows} | set(store.snapshots.used())):
        try:
            backend = await store.registry.require("snapshotters", name)
            objects = {info.key: info for info in await backend.walk()}
        except IntermodalError as error:
            yield Finding(f"snapshots/{name}", "", "", f"it cannot be looked at: {error}")
            continue
        mine = [row for row in rows if row.snapshotter == name]
        for row in mine:
            if row.object not in objects and row.becomes not in objects:
                yield Finding(
                    f"snapshots/{name}", row.namespace, row.key, f"it is gone from {name}: unpack its image again"
                )
        known = {key for row in mine for key in (row.object, row.becomes)}
        for key, info in objects.items():
            if key not in known and (f"snapshots/{name}", key) not in tombs and info.created_at < store.began:
                yield Finding(f"snapshots/{name}", "", key, "there is no record of it; the next start removes it")


def _references(marked: Marked) -> list[Finding]:
    """What images and containers need, as far as the records tell."""
    return [
        Finding(*node, f"it needs {missing.type} {missing.key}, which is missing")
        for node, record in marked.records.items()
        if isinstance(record, Image | Container)
        for missing in _missing(marked, node)
    ]


def _missing(marked: Marked, node: Node) -> list[Node]:
    seen, missing, queue = {node}, [], [node]
    while queue:
        for target, how in forward(marked.records[queue.pop()]):
            if target in seen or (target.type.startswith("snapshots/") and how.startswith("containerd.io/")):
                continue  # a label's snapshot is made again when it is needed
            seen.add(target)
            if target in marked.records:
                queue.append(target)
            else:
                missing.append(target)
    return missing
