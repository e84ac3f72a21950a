"""The tables of the store manager."""

from __future__ import annotations

from typing import Any

import msgspec
from intermodal_core.contracts.managers.store import Container, ContentInfo, Image, Lease, Namespace
from intermodal_core.contracts.metadata import Table
from intermodal_core.contracts.snapshotters import Kind

__all__ = [
    "ALL",
    "CONTAINERS",
    "CONTENT",
    "IMAGES",
    "LEASES",
    "NAMESPACES",
    "RESOURCES",
    "SNAPSHOTS",
    "STARTS",
    "TOMBSTONES",
    "LeaseResource",
    "SnapshotRow",
    "Start",
    "Tombstone",
]


class SnapshotRow(msgspec.Struct, frozen=True):
    """A client's snapshot and the backend's object behind it.

    `object` is the backend's key. While a commit is under way `becomes` is the backend's name to be and `named` the
    client's, so that a restart can tell how far it came.
    """

    namespace: str
    snapshotter: str
    key: str
    object: str
    parent: str
    kind: Kind
    created_at: int
    updated_at: int
    labels: dict[str, str] = {}
    named: str = ""
    becomes: str = ""


class LeaseResource(msgspec.Struct, frozen=True):
    """One thing that a lease names."""

    namespace: str
    lease: str
    type: str
    id: str


class Tombstone(msgspec.Struct, frozen=True):
    """An object of a backend that is to go: kind `content` with the digest, `snapshots/NAME` with the backend's key.

    `number` grows: what is to go first has the smaller one.
    """

    kind: str
    object: str
    number: int


class Start(msgspec.Struct, frozen=True):
    """When the last daemon began, in ns since the epoch; `id` is always "daemon"."""

    id: str
    at: int


NAMESPACES = Table("namespaces", Namespace, ("name",))
IMAGES = Table("images", Image, ("namespace", "name"), {"by_name": ("name",)})
CONTAINERS = Table("containers", Container, ("namespace", "id"), {"by_id": ("id",)})
CONTENT = Table("content", ContentInfo, ("namespace", "digest"), {"by_digest": ("digest",)})
SNAPSHOTS = Table(
    "snapshots",
    SnapshotRow,
    ("namespace", "snapshotter", "key"),
    {
        "by_parent": ("namespace", "snapshotter", "parent"),
        "by_snapshotter": ("snapshotter",),
    },
)
LEASES = Table("leases", Lease, ("namespace", "id"))
RESOURCES = Table("lease_resources", LeaseResource, ("namespace", "lease", "type", "id"))
TOMBSTONES = Table("tombstones", Tombstone, ("kind", "object"), {"in_order": ("kind", "number")})
STARTS = Table("starts", Start, ("id",))

ALL: tuple[Table[Any], ...] = (
    NAMESPACES,
    IMAGES,
    CONTAINERS,
    CONTENT,
    SNAPSHOTS,
    LEASES,
    RESOURCES,
    TOMBSTONES,
    STARTS,
)
