"""Where the bytes are, and what keeps them there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from intermodal_core.contracts.managers.collector import Use
from intermodal_core.errors import IntermodalError

from intermodal_store.marking import Marked
from intermodal_store.references import Node
from intermodal_store.tables import SnapshotRow

if TYPE_CHECKING:
    from intermodal_store.store import Store

__all__ = ["usage"]


async def usage(store: Store, marked: Marked) -> list[Use]:
    """The largest first. A snapshot whose backend does not answer has 0 bytes."""
    found: dict[tuple[str, str], Use] = {}
    for node, record in marked.records.items():
        if node.type == "content":  # once, however many namespaces see it
            known = found.get((node.type, node.key))
            namespaces = (*known.namespaces, node.namespace) if known else (node.namespace,)
            kept_by = (known.kept_by if known else "") or _root(marked, node)
            found[node.type, node.key] = Use(node.type, namespaces, node.key, record.size, kept_by)
        elif isinstance(record, SnapshotRow):
            size = await _size(store, record)
            found[node.type, f"{node.namespace}/{node.key}"] = Use(
                node.type, (node.namespace,), node.key, size, _root(marked, node)
            )
    for namespace, status in await store.content.left_ingests():
        node = Node("ingests", namespace, status.ref)
        kept_by = _root(marked, node)
        found[node.type, f"{namespace}/{status.ref}"] = Use("ingests", (namespace,), status.ref, status.offset, kept_by)
    return sorted(found.values(), key=lambda use: (-use.size, use))


def _root(marked: Marked, node: Node) -> str:
    """The root of what protects an object, in words; "" for garbage."""
    chain = marked.chain(node)
    if not chain:
        return ""
    top = chain[0]
    return top.how if len(chain) == 1 else f"{top.how.removeprefix('an ').removeprefix('a ')} {top.key}"


async def _size(store: Store, row: SnapshotRow) -> int:
    try:
        backend = await store.registry.require("snapshotters", row.snapshotter)
        size: int = (await backend.usage(row.object)).size
    except IntermodalError:
        return 0
    return size
