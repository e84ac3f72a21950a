"""Collection: what nothing protects any more is removed, and every object's protection can be explained.

Vocabulary. An *object* is a blob, a snapshot, an image's record, a container or a lease of one namespace. *Roots* are protected by
themselves: images and leases that have not expired, containers, what carries the label `containerd.io/gc.root`, and what the
daemon itself works on. An object that a protected one refers to is protected: an image's target, a container's snapshot, a
snapshot's parent, what a lease names, and what labels say (`containerd.io/gc.ref.*` from the one that refers,
`containerd.io/gc.bref.*` from the one referred to). Of what a lease with the label `containerd.io/gc.flat` names, no label is
followed. The label `containerd.io/gc.expire` gives a lease or an image an end (RFC 3339).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

__all__ = ["Collected", "Collector", "Finding", "Garbage", "Link", "Protection", "Rebuilt", "Use"]


class Garbage(msgspec.Struct, frozen=True):
    """An object that nothing protects: its type (`content`, `snapshots/NAME`, `images`, `leases`, `ingests`), bytes (of
    content and ingests; else 0), and the sentence that says why it goes.
    """

    type: str
    namespace: str
    key: str
    size: int
    why: str


class Collected(msgspec.Struct, frozen=True):
    """What one collection came to: what went (or would go), how many objects stay, the seconds for both parts, and when the
    next object expires (ns since the epoch, 0: none has an end) or a young one has its time (0: there is none).
    """

    garbage: tuple[Garbage, ...]
    kept: int
    mark_seconds: float
    sweep_seconds: float
    next_expiry: int = 0
    next_grown: int = 0


class Use(msgspec.Struct, frozen=True, order=True):
    """Bytes on disk: of a blob (once, with all namespaces that see it), a snapshot without its parents, an ingest.

    `kept_by` names the root that protects it (of several, one); "" where nothing does.
    """

    type: str
    namespaces: tuple[str, ...]
    key: str
    size: int
    kept_by: str


class Finding(msgspec.Struct, frozen=True):
    """Something that does not fit: what it is of (an object; `metadata`), and what is wrong, in a sentence."""

    type: str
    namespace: str
    key: str
    what: str


class Rebuilt(msgspec.Struct, frozen=True):
    """How the records were brought up to what was found, after a loss: which older state they began with, the images that were
    not in it (now known by their digest), what else came back, and what is recorded and gone.
    """

    source: str
    images: tuple[Finding, ...] = ()
    returned: tuple[Finding, ...] = ()
    gone: tuple[Finding, ...] = ()


class Link(msgspec.Struct, frozen=True):
    """One object in a chain of references, and how the one before it protects it; of the first, why it is a root."""

    type: str
    namespace: str
    key: str
    how: str


class Protection(msgspec.Struct, frozen=True):
    """Why one object stays: the chain from a root to it; or, with an empty chain, why it goes."""

    type: str
    namespace: str
    key: str
    chain: tuple[Link, ...]
    why: str = ""


class Collector(Protocol):
    """The collector of the store manager. Collections run one after the other, beside everything else.

    What a call was promised is kept: an object that a write refers to while a collection runs is not removed by it.
    """

    #: Called on the loop when something went that may leave garbage, with 0; when something got an end, with its time.
    on_change: Callable[[int], None] | None

    @property
    def writes(self) -> int:
        """A number that grows with every write: while it stays the same there is nothing new to collect."""

    async def collect(self, *, grace: float = 0.0, dry_run: bool = False) -> Collected:
        """Remove what nothing protects; returns once the records are gone and the backends' bytes follow.

        What was made or changed less than `grace` seconds ago is kept, for clients that write first and refer later.
        `dry_run` removes nothing.
        """

    async def usage(self) -> list[Use]:
        """Where the bytes are, the largest first."""

    async def check(self, *, deep: bool = False) -> list[Finding]:
        """What does not fit among records, blobs and snapshots; none where all is well. `deep`: every blob is read whole."""

    @property
    def rebuilt(self) -> Rebuilt | None:
        """What this start of the daemon rebuilt, if it did."""

    async def explain(self, key: str, namespace: str = "") -> list[Protection]:
        """Why each object stays or goes whose name, digest or key is `key` or begins with it; of one namespace, or of all.

        Raises NotFound when there is none.
        """
