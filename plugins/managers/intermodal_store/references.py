"""What records refer to, by their fields and by containerd's labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from intermodal_core.contracts.managers.store import Container, ContentInfo, Image, Lease

from intermodal_store.tables import LeaseResource, SnapshotRow

__all__ = ["FLAT", "ROOT", "Node", "backward", "expiry", "forward", "node_of"]

ROOT = "containerd.io/gc.root"
FLAT = "containerd.io/gc.flat"
_EXPIRE = "containerd.io/gc.expire"
_REF = "containerd.io/gc.ref."
_BACK = "containerd.io/gc.bref."
_WORDS = {"content": "content", "image": "images", "container": "containers"}


class Node(NamedTuple):
    """An object: type as leases name it (`content`, `snapshots/NAME`, `images`), or `containers` or `leases`."""

    type: str
    namespace: str
    key: str


def node_of(record: Any) -> Node | None:
    """The object that a record is of; a lease's resource is the object that it names."""
    if isinstance(record, ContentInfo):
        return Node("content", record.namespace, record.digest)
    if isinstance(record, SnapshotRow):
        return Node(f"snapshots/{record.snapshotter}", record.namespace, record.key)
    if isinstance(record, Image):
        return Node("images", record.namespace, record.name)
    if isinstance(record, Container):
        return Node("containers", record.namespace, record.id)
    if isinstance(record, Lease):
        return Node("leases", record.namespace, record.id)
    if isinstance(record, LeaseResource):
        return Node(record.type, record.namespace, record.id)
    return None


def forward(record: Any) -> Iterator[tuple[Node, str]]:
    """What a record protects, and how: `parent` and `snapshot` are not labels, so a flat lease follows them, too."""
    if isinstance(record, SnapshotRow) and record.parent:
        yield Node(f"snapshots/{record.snapshotter}", record.namespace, record.parent), "parent"
    elif isinstance(record, Image):
        yield Node("content", record.namespace, record.target.digest), "target"
    elif isinstance(record, Container) and record.snapshot_key:
        yield Node(f"snapshots/{record.snapshotter}", record.namespace, record.snapshot_key), "snapshot"
    if isinstance(record, ContentInfo | SnapshotRow | Image | Container) and record.labels:
        yield from _labelled(record.namespace, record.labels, _REF)


def backward(record: Any) -> Iterator[tuple[Node, str]]:
    """What protects a record, by the record's own labels."""
    if isinstance(record, ContentInfo | SnapshotRow | Image) and record.labels:
        yield from _labelled(record.namespace, record.labels, _BACK)


def _labelled(namespace: str, labels: Mapping[str, str], prefix: str) -> Iterator[tuple[Node, str]]:
    for label, key in labels.items():
        if label.startswith(prefix) and (type := _type(label[len(prefix) :])):
            yield Node(type, namespace, key), label


def _type(words: str) -> str:
    """`content`, `content.config`, `content/0`, `snapshot.overlayfs/0`, ..."""
    if words.startswith("snapshot."):
        name = words[len("snapshot.") :].partition("/")[0]
        return f"snapshots/{name}" if name else ""
    end = min((at for mark in "./" if (at := words.find(mark)) >= 0), default=len(words))
    return _WORDS.get(words[:end], "")


def expiry(labels: Mapping[str, str]) -> int:
    """When something ends, in ns since the epoch; 0: never, also where the label is no time."""
    text = labels.get(_EXPIRE, "")
    if not text:
        return 0
    try:
        end = datetime.fromisoformat(text)
    except ValueError:
        return 0
    return max(1, int(end.astimezone().timestamp() * 1_000_000_000))
