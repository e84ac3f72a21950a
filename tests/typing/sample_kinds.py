"""What authors write of the other kinds, as their type checker sees it: each class is its contract, and each mistake is one.

For the type checker alone: strictly, from the wheel of intermodal-core, with every `type: ignore` needed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, assert_type

import msgspec
from intermodal_core.contracts.cni import Call, CniType, Host, Result
from intermodal_core.contracts.common import Descriptor, Mount
from intermodal_core.contracts.content import ContentStore, IngestStatus
from intermodal_core.contracts.differs import Applied, Differ
from intermodal_core.contracts.event_sinks import EventSink, SunkEvent
from intermodal_core.contracts.hooks import ContainerInfo, Pull
from intermodal_core.contracts.image_sources import Access, Body, ImageSource, Resolved
from intermodal_core.contracts.image_sources import Host as SourceHost
from intermodal_core.contracts.metadata import MetadataStore, Table, Transaction
from intermodal_core.contracts.runtimes import CreateTask, Exit, Runtime, TaskRef
from intermodal_core.contracts.services import Service
from intermodal_core.contracts.verifiers import Candidate, Evidence, Verdict, Verifier
from intermodal_core.hooks import hookimpl
from intermodal_core.migrations import migrate
from intermodal_core.plugin import Context, NoConfig, Plugin


class Type:
    """A CNI type."""

    def add(self, call: Call, host: Host) -> Result:
        """Make nothing."""
        assert_type(host.sysctl(call.netns, "ipv4/ip_forward"), str)
        return call.previous or Result()

    def delete(self, call: Call, host: Host) -> None:
        """Undo nothing."""

    def check(self, call: Call, host: Host) -> None:
        """Miss nothing."""

    def status(self, call: Call, host: Host) -> None:
        """Want nothing."""

    def gc(self, call: Call, host: Host) -> None:
        """Free nothing."""


class Sink:
    """An event sink."""

    filters: tuple[str, ...] = ("topic~=/tasks/",)

    def deliver(self, events: tuple[SunkEvent, ...]) -> None:
        """Look at them."""
        assert_type(events[0].fields, dict[str, Any])
        assert_type(events[0].json(), bytes)

    def lost(self, first: int, last: int) -> None:
        """Pass over."""

    def close(self) -> None:
        """Nothing is open."""


class Strict:
    """A verifier."""

    def verify(self, candidate: Candidate, evidence: Evidence) -> Verdict:
        """Accept what has any signature, which no verifier should."""
        signatures = evidence.referrers("application/x.signature")
        assert_type(signatures, list[Descriptor])
        return Verdict(bool(signatures), f"{candidate.name} has {len(signatures)} signatures")


class Empty:
    """A body without bytes."""

    host = "none://"
    ranges = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Nothing."""
        for piece in list[bytes]():
            yield piece

    async def aclose(self) -> None:
        """Nothing is open."""


class Source:
    """An image source."""

    async def resolve(self, name: str, access: Access | None = None) -> Resolved:
        """Everything is one thing."""
        return Resolved(name, Descriptor("application/x", f"sha256:{'0' * 64}", 0), "none://")

    async def fetch(
        self, name: str, target: Descriptor, offset: int = 0, length: int = -1, access: Access | None = None
    ) -> Body:
        """Nothing."""
        return Empty()

    async def push(
        self, name: str, target: Descriptor, content: int, access: Access | None = None, mount_from: str = ""
    ) -> bool:
        """Nowhere."""
        return False

    async def tags(self, name: str, access: Access | None = None) -> list[str]:
        """None."""
        return []

    async def referrers(
        self, name: str, digest: str, artifact_type: str = "", access: Access | None = None
    ) -> list[Descriptor]:
        """None."""
        return []

    async def explain(self, name: str, access: Access | None = None) -> list[SourceHost]:
        """None."""
        return []


class Quiet:
    """A service."""

    async def __aenter__(self) -> Quiet:
        """Begin."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End."""


class Say:
    """Hooks."""

    @hookimpl
    def before_pull(self, pull: Pull) -> Pull | None:
        """Another tag."""
        return msgspec.structs.replace(pull, reference=f"{pull.reference}-signed")

    @hookimpl(trylast=True)
    def adjust_spec(self, spec: dict[str, Any], container: ContainerInfo) -> dict[str, Any] | None:
        """As it is."""
        assert_type(container.labels, dict[str, str])
        return None


def _renamed(options: dict[str, Any]) -> dict[str, Any]:
    return {"name": options.pop("title"), **options} if "title" in options else options


def _make(context: Context[NoConfig]) -> Strict:
    assert_type(context.exports, dict[str, str])
    return Strict()


verifier = Plugin(factory=_make, migrations=(_renamed,), annotations=("containerd.io/snapshot/x",))
assert_type(verifier.version, int)
assert_type(migrate({"title": "x"}, 1, (_renamed,)).replaced, tuple[str, ...])


class Note(msgspec.Struct):
    """A record."""

    name: str


NOTES = Table("notes", Note, ("name",))


def are() -> tuple[CniType, EventSink, Verifier, ImageSource, Service]:
    """Each class is its contract."""
    return Type(), Sink(), Strict(), Source(), Quiet()


async def used(store: ContentStore, differ: Differ, runtime: Runtime, metadata: MetadataStore) -> None:
    """What the contracts of the kinds that are larger answer."""
    assert_type(store.begin("ref"), IngestStatus)
    assert_type(differ.apply(0, Descriptor("", "", 0), (Mount("bind", "/x"),)), Applied)
    assert_type(await runtime.create(TaskRef("default", "one"), CreateTask("/bundle")), int)
    assert_type(await runtime.wait(TaskRef("default", "one")), Exit)

    def count(tx: Transaction) -> int:
        tx.put(NOTES, Note("x"))
        assert_type(tx.get(NOTES, "x"), Note | None)
        return tx.count(NOTES)

    assert_type(await metadata.write(count), int)


class Late(Sink):
    """A sink whose `deliver` is a coroutine, which is never awaited."""

    async def deliver(self, events: tuple[SunkEvent, ...]) -> None:  # type: ignore[override]
        """Later."""


def refused(sink: Sink, candidate: Candidate) -> None:
    """Each line is an error."""
    sink.deliver([])  # type: ignore[arg-type]
    candidate.name = "other"  # type: ignore[misc]
    Verdict("yes")  # type: ignore[call-arg, arg-type]
    NOTES.key = 1  # type: ignore[assignment]
    Plugin(factory=_make, migrations=_renamed)  # type: ignore[arg-type]
    _1: EventSink = Late()  # type: ignore[assignment]
    _2: Verifier = sink  # type: ignore[assignment]
    _3: Service = sink  # type: ignore[assignment]
