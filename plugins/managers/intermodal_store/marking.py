"""The mark: from one consistent view of the records, what is protected and by what."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from intermodal_core.contracts.managers.collector import Garbage, Link
from intermodal_core.contracts.managers.store import INTERNAL_REF, ContentInfo, Image
from intermodal_core.contracts.metadata import Table, Transaction

from intermodal_store.references import FLAT, ROOT, Node, backward, expiry, forward, node_of
from intermodal_store.tables import CONTAINERS, CONTENT, IMAGES, LEASES, RESOURCES, SNAPSHOTS, SnapshotRow

__all__ = ["Marked"]

_HOW = {"parent": "its parent", "target": "its target", "snapshot": "its snapshot", "named": "named by it"}
_TABLES: tuple[Table[Any], ...] = (IMAGES, CONTAINERS, CONTENT, SNAPSHOTS)
#: References that no label makes.
_FIELDS = ("parent", "snapshot")


class Marked:
    """The records of all namespaces, and of each protected object what protects it.

    `held` is what the daemon's own work protects. What was touched after `young` (ns since the epoch) is a root as well.
    """

    def __init__(self, tx: Transaction, held: Iterable[Node], now: int, young: int) -> None:
        self.records: dict[Node, Any] = {}
        self.edges: dict[Node, list[tuple[Node, str]]] = {}
        self.next_expiry = 0
        self.oldest_young = 0
        #: Of each protected object: the one that protects it (None: it is a root), and how.
        self.live: dict[Node, tuple[Node | None, str]] = {}
        roots: list[tuple[Node, str]] = [(node, "something that the daemon does needs it") for node in held]
        flat: list[tuple[Node, str]] = []
        for lease in tx.scan(LEASES):
            node = Node("leases", lease.namespace, lease.id)
            self.records[node] = lease
            if not self._expired(lease.labels, now):
                (flat if FLAT in lease.labels else roots).append((node, "a lease"))
        for resource in tx.scan(RESOURCES):
            lease_node = Node("leases", resource.namespace, resource.lease)
            named = Node(resource.type, resource.namespace, resource.id)
            self.edges.setdefault(lease_node, []).append((named, "named"))
        for table in _TABLES:
            for record in tx.scan(table):
                why = self._add(record, now, young)
                if why:
                    roots.append((node_of(record), why))  # type: ignore[arg-type]
        self._spread(roots, _all)
        self._spread(flat, _named)

    def _add(self, record: Any, now: int, young: int) -> str:
        """Take a record in; why it is a root, "" if it is none."""
        node = node_of(record)
        assert node is not None
        self.records[node] = record
        targets = list(forward(record))
        if targets:
            self.edges.setdefault(node, []).extend(targets)
        for above, label in backward(record):
            self.edges.setdefault(above, []).append((node, label))
        if node.type == "containers":
            return "a container"
        if node.type == "images":
            return "" if self._expired(record.labels, now) else "an image"
        if ROOT in record.labels:
            return f"it has the label {ROOT}"
        if isinstance(record, SnapshotRow) and (record.becomes or record.key.startswith(INTERNAL_REF)):
            return "something that the daemon does needs it"
        if record.updated_at > young:
            self.oldest_young = min(self.oldest_young or record.updated_at, record.updated_at)
            return "it was made or changed just now"
        return ""

    def _expired(self, labels: dict[str, str], now: int) -> bool:
        end = expiry(labels)
        if end > now:
            self.next_expiry = min(self.next_expiry or end, end)
        return 0 < end <= now

    def _spread(self, roots: Iterable[tuple[Node, str]], followed: Any) -> None:
        live, edges = self.live, self.edges
        queue: deque[Node] = deque()
        for node, why in roots:
            if node not in live:
                live[node] = (None, why)
                queue.append(node)
        while queue:
            node = queue.popleft()
            for target, how in edges.get(node, ()):
                if target not in live and followed(node, how):
                    live[target] = (node, how)
                    queue.append(target)

    def garbage(self) -> list[Node]:
        """What nothing protects, children before their parents and whoever refers before what is referred to."""
        dead = [node for node in self.records if node not in self.live]
        count = dict.fromkeys(dead, 0)
        for node in dead:
            for target, _ in self.edges.get(node, ()):
                if target in count:
                    count[target] += 1
        ordered: list[Node] = []
        queue = deque(node for node in dead if not count[node])
        while queue:
            node = queue.popleft()
            ordered.append(node)
            for target, _ in self.edges.get(node, ()):
                if target in count:
                    count[target] -= 1
                    if not count[target]:
                        queue.append(target)
        if len(ordered) < len(dead):  # they refer to each other in a circle
            seen = set(ordered)
            ordered += [node for node in dead if node not in seen]
        return ordered

    def below(self, nodes: Iterable[Node]) -> set[Node]:
        """Those nodes, and all that they would protect if they were protected."""
        found: set[Node] = set()
        queue = deque(nodes)
        while queue:
            node = queue.popleft()
            if node not in found:
                found.add(node)
                queue.extend(target for target, _ in self.edges.get(node, ()) if target not in self.live)
        return found

    def chain(self, node: Node) -> tuple[Link, ...]:
        """From a root to a protected object; empty for one that is not."""
        links: list[Link] = []
        at: Node | None = node
        while at is not None and at in self.live:
            above, how = self.live[at]
            links.append(Link(*at, _HOW.get(how, how if above is None else f"its label {how}")))
            at = above
        return tuple(reversed(links))

    def tell(self, nodes: list[Node]) -> tuple[Garbage, ...]:
        """Garbage with the reasons."""
        above: dict[Node, Node] = {}
        for node in nodes:
            for target, _ in self.edges.get(node, ()):
                above.setdefault(target, node)
        return tuple(Garbage(*node, self.size(node), self._why(node, above.get(node))) for node in nodes)

    def size(self, node: Node) -> int:
        """Bytes of a blob; 0 of all else."""
        record = self.records.get(node)
        return record.size if isinstance(record, ContentInfo) else 0

    def _why(self, node: Node, above: Node | None) -> str:
        record = self.records[node]
        if node.type == "leases" or isinstance(record, Image):
            return f"it expired at {record.labels['containerd.io/gc.expire']}"
        if above is None:
            return "nothing refers to it"
        return f"only {above.type} {above.key} refers to it, which goes, too"


def _all(node: Node, how: str) -> bool:
    return True


def _named(node: Node, how: str) -> bool:
    return node.type == "leases" or how in _FIELDS
