"""The store manager: namespaced records of images, containers, snapshots, content and leases.

It maps names of clients to objects of backends. Content is shared between namespaces by digest only; a namespace sees a
blob once it wrote it or named its bytes. Updates take field paths (`labels`, `labels.KEY`, `image`, ...); none means
the whole object, immutable fields apart. Lists take filters of containerd's grammar.

Every change writes its event in the same transaction. Labels are at most 4,096 bytes, key and value together;
identifiers at most 76 characters. Errors: NotFound (naming the other namespaces that hold the name), AlreadyExists,
InvalidArgument, FailedPrecondition.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

import msgspec

from intermodal_core.contracts.common import Descriptor, Mount, Usage
from intermodal_core.contracts.content import IngestStatus
from intermodal_core.contracts.hooks import ContainerInfo
from intermodal_core.contracts.managers.collector import Collector
from intermodal_core.contracts.managers.policy import Subject
from intermodal_core.contracts.metadata import Table, Transaction
from intermodal_core.contracts.snapshotters import SnapshotInfo
from intermodal_core.errors import FailedPrecondition

__all__ = [
    "INTERNAL_REF",
    "AnyValue",
    "Choice",
    "Container",
    "Containers",
    "Content",
    "ContentInfo",
    "Image",
    "Images",
    "Lease",
    "Leases",
    "Namespace",
    "Namespaces",
    "Resource",
    "Scope",
    "Snapshots",
    "Store",
]

T = TypeVar("T")

#: No client's ref has a character that cannot be seen.
INTERNAL_REF = "\x01"


class Scope(msgspec.Struct, frozen=True):
    """Where a call acts: a namespace, and the lease that protects what it creates ("": none)."""

    namespace: str
    lease: str = ""

    @property
    def named(self) -> str:
        """The namespace. Raises FailedPrecondition when there is none."""
        if not self.namespace:
            raise FailedPrecondition("no namespace was given: name one (ctr and imod: -n NAMESPACE)")
        return self.namespace


class AnyValue(msgspec.Struct, frozen=True):
    """A typed message that the daemon passes on: type URL and bytes, as protobuf's Any."""

    type_url: str
    value: bytes = b""


class Namespace(msgspec.Struct, frozen=True):
    """A namespace and its labels."""

    name: str
    labels: dict[str, str] = {}


class Image(msgspec.Struct, frozen=True):
    """A name for a target in the content store; times in ns since the epoch."""

    namespace: str
    name: str
    target: Descriptor
    labels: dict[str, str] = {}
    created_at: int = 0
    updated_at: int = 0


class Choice(msgspec.Struct, frozen=True):
    """What was chosen for a container and is kept until it is deleted, whatever the config becomes.

    The runtime `instance` is one of `plugin` with just these `options` (None: those that the config gives it), among them the path
    of its `binary`, whose `version` was the one of that time. `why` is the sentence that says who chose.
    """

    instance: str
    plugin: str = ""
    binary: str = ""
    version: str = ""
    why: str = ""
    options: dict[str, Any] | None = None


class Container(msgspec.Struct, frozen=True):
    """What is known of a container before and beside its task; containerd's `Container`."""

    namespace: str
    id: str
    image: str = ""
    labels: dict[str, str] = {}
    runtime: str = ""
    runtime_options: AnyValue | None = None
    spec: AnyValue | None = None
    snapshotter: str = ""
    snapshot_key: str = ""
    created_at: int = 0
    updated_at: int = 0
    extensions: dict[str, AnyValue] = {}
    sandbox: str = ""
    choice: Choice | None = None

    @property
    def info(self) -> ContainerInfo:
        """What hooks are told of it."""
        runtime = self.choice.instance if self.choice else self.runtime
        return ContainerInfo(self.namespace, self.id, self.image, self.labels, runtime, self.snapshotter)


class ContentInfo(msgspec.Struct, frozen=True):
    """A blob as one namespace sees it."""

    namespace: str
    digest: str
    size: int
    labels: dict[str, str] = {}
    created_at: int = 0
    updated_at: int = 0


class Lease(msgspec.Struct, frozen=True):
    """Protects what it names, and what that refers to, from collection until it is deleted or expires."""

    namespace: str
    id: str
    labels: dict[str, str] = {}
    created_at: int = 0


class Resource(msgspec.Struct, frozen=True):
    """A thing that a lease names: type `content`, `ingests`, `images` or `snapshots/NAME`."""

    id: str
    type: str


class Namespaces(Protocol):
    """Namespaces. A namespace that holds something cannot be deleted; one is made by the first thing written to it."""

    async def get(self, name: str, *, ruled: bool = True) -> Namespace:
        """With `ruled` the operator's rules add the labels that it lacks, as they do for `select`."""

    async def select(self, filters: Sequence[str] = ()) -> list[Namespace]: ...
    async def create(self, name: str, labels: Mapping[str, str]) -> Namespace: ...
    async def update(self, name: str, labels: Mapping[str, str], fields: Sequence[str] = ()) -> Namespace: ...
    async def delete(self, name: str) -> None:
        """Raises FailedPrecondition when it is not empty, saying of what."""


class Images(Protocol):
    """Image records."""

    async def get(self, scope: Scope, name: str) -> Image: ...
    async def select(self, scope: Scope, filters: Sequence[str] = ()) -> list[Image]: ...
    async def create(self, scope: Scope, image: Image) -> Image: ...
    async def update(self, scope: Scope, image: Image, fields: Sequence[str] = ()) -> Image: ...
    async def delete(self, scope: Scope, name: str, target: Descriptor | None = None) -> None: ...


class Containers(Protocol):
    """Container records."""

    async def get(self, scope: Scope, id: str) -> Container: ...
    async def select(self, scope: Scope, filters: Sequence[str] = ()) -> list[Container]: ...
    async def create(self, scope: Scope, container: Container) -> Container:
        """Record it; where it has no choice of a runtime yet, the policy manager's is pinned on it."""

    def insert(self, tx: Transaction, scope: Scope, container: Container) -> Container:
        """`create` within a transaction; the choice must be made."""

    def announced(self, container: Container) -> AbstractAsyncContextManager[None]:
        """Around what uses `insert`: calls the hooks before and after it, as `create` does. Raises what a hook denies with."""

    async def update(self, scope: Scope, container: Container, fields: Sequence[str] = ()) -> Container: ...
    def repin(
        self, tx: Transaction, namespace: str, id: str, choice: Choice, snapshotter: str = "", snapshot_key: str = ""
    ) -> None:
        """Another runtime, and another snapshot where one is named. The old plugin's runtime options are dropped."""

    async def delete(self, scope: Scope, id: str) -> None: ...


class Content(Protocol):
    """Blobs and ingests as one namespace sees them. Refs are per namespace.

    A ref that begins with `INTERNAL_REF` belongs to a manager's own work, and is dropped at the next start.
    """

    async def info(self, scope: Scope, digest: str) -> ContentInfo: ...
    async def keep(self, scope: Scope, digest: str) -> ContentInfo:
        """`info`, and the scope's lease or hold protects the blob from now on."""

    async def select(self, scope: Scope, filters: Sequence[str] = ()) -> list[ContentInfo]: ...
    async def update(
        self, scope: Scope, digest: str, labels: Mapping[str, str], fields: Sequence[str] = ()
    ) -> ContentInfo: ...
    async def delete(self, scope: Scope, digest: str) -> None: ...
    async def open(self, scope: Scope, digest: str) -> int:
        """A read-only descriptor that the caller closes."""

    async def read(self, scope: Scope, digest: str) -> bytes:
        """A small blob whole (at most 8 MiB, else InvalidArgument); kept in memory for the next reader."""

    async def begin(self, scope: Scope, ref: str, total: int = 0, expected: str = "") -> IngestStatus:
        """Open an ingest. Raises AlreadyExists when the namespace has the blob `expected`.

        When another namespace has it, the ingest may be completed by `commit` at once where sharing is allowed, else the
        bytes are written anew.
        """

    async def append(self, scope: Scope, ref: str, data: bytes, offset: int = -1) -> int: ...
    async def truncate(self, scope: Scope, ref: str, size: int) -> None: ...
    async def commit(
        self, scope: Scope, ref: str, size: int = 0, expected: str = "", labels: Mapping[str, str] | None = None
    ) -> ContentInfo: ...
    async def close(self, scope: Scope, ref: str) -> None: ...
    async def abort(self, scope: Scope, ref: str) -> None: ...
    async def status(self, scope: Scope, ref: str) -> IngestStatus: ...
    async def statuses(self, scope: Scope, filters: Sequence[str] = ()) -> list[IngestStatus]: ...
    async def write(
        self, scope: Scope, data: bytes, digest: str = "", labels: Mapping[str, str] | None = None
    ) -> ContentInfo:
        """A small blob at once. One that is there already gets the labels added and is no error."""

    async def incoming(self, size: int) -> str:
        """A directory to write a file of `size` bytes in that `adopt` will take; what is left in it goes at the next start."""

    async def adopt(
        self, scope: Scope, path: str, digest: str, size: int, labels: Mapping[str, str] | None = None
    ) -> ContentInfo:
        """Make a file of `incoming`, whose digest the caller has verified, a blob that this namespace sees.

        The file is gone afterwards, or its name taken by another call for the same digest, and that is no error; one that
        is there already gets the labels added.
        """


class Snapshots(Protocol):
    """Snapshots by the names that clients give; `snapshotter` "" is the default that the policy gives.

    A key that begins with `INTERNAL_REF` belongs to a manager's own work, and is dropped at the next start.
    """

    async def prepare(
        self, scope: Scope, snapshotter: str, key: str, parent: str = "", labels: Mapping[str, str] | None = None
    ) -> list[Mount]:
        """Make an active snapshot.

        A label `containerd.io/snapshot.ref` that names a committed snapshot that is there: AlreadyExists.
        """

    async def view(
        self, scope: Scope, snapshotter: str, key: str, parent: str = "", labels: Mapping[str, str] | None = None
    ) -> list[Mount]: ...
    async def mounts(self, scope: Scope, snapshotter: str, key: str) -> list[Mount]: ...
    async def commit(
        self,
        scope: Scope,
        snapshotter: str,
        name: str,
        key: str,
        labels: Mapping[str, str] | None = None,
        parent: str | None = None,
    ) -> None: ...
    async def remove(self, scope: Scope, snapshotter: str, key: str) -> None: ...
    def forget(self, tx: Transaction, namespace: str, snapshotter: str, key: str) -> None:
        """`remove` within a transaction; call `Store.removed` once it is committed."""

    async def stat(self, scope: Scope, snapshotter: str, key: str) -> SnapshotInfo: ...
    async def keep(self, scope: Scope, snapshotter: str, key: str) -> SnapshotInfo:
        """`stat`, and the scope's lease or hold protects the snapshot from now on."""

    async def update(
        self, scope: Scope, snapshotter: str, key: str, labels: Mapping[str, str], fields: Sequence[str] = ()
    ) -> SnapshotInfo: ...
    async def select(self, scope: Scope, snapshotter: str, filters: Sequence[str] = ()) -> list[SnapshotInfo]: ...
    async def usage(self, scope: Scope, snapshotter: str, key: str) -> Usage: ...
    async def cleanup(self, scope: Scope, snapshotter: str) -> None: ...


class Leases(Protocol):
    """Leases, which are recorded, and holds, which protect what the daemon itself works on."""

    def hold(self, scope: Scope, *, tidy: bool = False) -> AbstractAsyncContextManager[Scope]:
        """A scope for some work of the daemon's own: what is made in it, or found there by `content.begin`, is not collected
        while the block lasts, and belongs to `scope`'s lease as well. Leave the block once the record is committed that
        refers to it. A hold ends with the daemon. With `tidy`, what was made in a block that raises is collected at once, where
        nobody else has come to need it; without, later, so that another try finds it.
        """

    async def create(self, scope: Scope, id: str, labels: Mapping[str, str]) -> Lease:
        """With id "" one is made up."""

    async def delete(self, scope: Scope, id: str) -> None: ...
    async def select(self, scope: Scope, filters: Sequence[str] = ()) -> list[Lease]: ...
    async def add(self, scope: Scope, id: str, resource: Resource) -> None: ...
    async def remove(self, scope: Scope, id: str, resource: Resource) -> None: ...
    async def resources(self, scope: Scope, id: str) -> list[Resource]: ...


class Store(Protocol):
    """The manager: one attribute a subject, and the transaction that others add their own records to.

    `write(fn)` runs `fn(tx)` in one commit with its events: `fn` may call `emit(tx, namespace, topic, type, fields)`.
    """

    namespaces: Namespaces
    images: Images
    containers: Containers
    content: Content
    snapshots: Snapshots
    leases: Leases
    collector: Collector

    def declare(self, *tables: Table[Any]) -> None:
        """As `MetadataStore.declare`: a manager's own tables."""

    async def read(self, fn: Callable[[Transaction], T], *, long: bool = False) -> T: ...
    async def write(self, fn: Callable[[Transaction], T]) -> T:
        """As `MetadataStore.write`; the events emitted by `fn` are published once it is durable."""

    def emit(self, tx: Transaction, namespace: str, topic: str, message: Any) -> None:
        """Record an event in the transaction; `message` is a protobuf message of `intermodal_api`."""

    def put_image(self, tx: Transaction, image: Image) -> Image:
        """Create or update an image within a transaction (with its event); for importers."""

    def forget_container(self, tx: Transaction, namespace: str, id: str) -> None:
        """Drop a container and its snapshot within a transaction; call `removed` once it is committed."""

    def rebuilt(self) -> None:
        """After a loss (`collector.rebuilt`): the manager of tasks, the last of all, has taken in what it found as well."""

    def removed(self) -> None:
        """What a transaction has dropped may go from the backends, and what only it needed be collected."""

    async def choose(
        self,
        subject: Subject,
        namespace: str,
        image: str = "",
        labels: Mapping[str, str] | None = None,
        asked: str = "",
        *,
        runtime: str = "",
    ) -> tuple[str, str]:
        """What the policy manager chooses, with what the namespace's record says; pull, create and statistics all ask here."""

    async def pin(self, namespace: str, image: str, labels: Mapping[str, str], asked: str) -> Choice:
        """The runtime that the policy gives a container, and what it is on this machine."""

    async def pin_to(self, instance: str, why: str = "") -> Choice:
        """What a runtime is now on this machine. Raises FailedPrecondition where it cannot be had."""

    def capabilities(self, choice: Choice) -> tuple[str, ...]:
        """What the plugin of a pinned runtime declares, once `runtime` was called for it."""

    async def runtime(self, choice: Choice) -> Any:
        """The runtime that was pinned: the instance in use while it is the same, else one with the options of that time.

        Raises FailedPrecondition when it cannot be had.
        """

    def lock(self, *key: str) -> AbstractAsyncContextManager[None]:
        """One at a time for each key."""

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it in the background; for what a start finds and does again when a crash kept it from being done."""
