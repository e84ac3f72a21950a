"""Random histories of clients, collections and deaths: nothing that is protected ever goes, and nothing else stays.

A model of its own says what is protected. While a collection runs beside a client, or after the daemon was killed over
a call, what the call came to is looked up; what was protected both before and after it must be there all the same.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from intermodal_api.containerd.services import (
    containers_pb2,
    content_pb2,
    images_pb2,
    leases_pb2,
    snapshots_pb2,
)
from intermodal_api.containerd.types import descriptor_pb2

from tests.harness.api import Api
from tests.harness.mortal import Mortal
from tests.harness.world import settled

REF = "containerd.io/gc.ref."
#: Collections run when the history says so.
CONFIG = "[managers.gc]\ndelay = 3600\ninterval = 3600\n"
_numbers = itertools.count()

#: `content`, `snapshots`, `images`, `containers` or `leases`, and a name.
Thing = tuple[str, str]


@dataclass
class Model:
    """What there is, and what it refers to."""

    things: dict[Thing, set[Thing]] = field(default_factory=dict)
    rooted: set[Thing] = field(default_factory=set)
    flat: set[Thing] = field(default_factory=set)
    active: set[str] = field(default_factory=set)

    def protected(self) -> set[Thing]:
        """From the roots, by whatever refers; and what flat leases name, with the parents of snapshots."""
        found = self.whole()
        queue = [lease for lease in self.flat if lease in self.things]
        while queue:
            thing = queue.pop()
            if thing not in found and thing in self.things:
                found.add(thing)
                below = self.things[thing] if thing[0] in ("leases", "snapshots") else set()
                queue.extend(each for each in below if thing[0] == "leases" or each[0] == "snapshots")
        return found

    def whole(self) -> set[Thing]:
        """What is protected with all that it refers to."""
        found: set[Thing] = set()
        queue = [thing for thing in self.things if thing[0] in ("images", "containers") or thing in self.rooted]
        queue += [thing for thing in self.things if thing[0] == "leases" and thing not in self.flat]
        while queue:
            thing = queue.pop()
            if thing not in found and thing in self.things:
                found.add(thing)
                queue.extend(self.things[thing])
        return found

    def of(self, kind: str) -> list[str]:
        return [name for each, name in self.things if each == kind]


class History:
    """One history in a namespace of its own."""

    def __init__(self, daemon: Mortal) -> None:
        self.daemon = daemon
        self.model = Model()
        self.namespace = f"h{next(_numbers)}"
        self.api = Api(daemon.address, self.namespace)
        self.collecting: threading.Thread | None = None
        self.failures: list[str] = []

    # What a client does: each returns what to call, what it does to the model, and what it makes or removes.

    def put(self, a: int, b: int, c: int) -> Any:
        data = f"{self.namespace} {next(_numbers)}".encode()
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        lease = self._pick("leases", a, none=True)
        refs = self._refs(b)
        labels = self._labels(refs) | ({"containerd.io/gc.root": "x"} if c % 7 == 0 else {})
        message = content_pb2.WriteContentRequest(action=content_pb2.COMMIT, ref=digest, data=data, labels=labels)

        def call() -> None:
            with Api(self.daemon.address, self.namespace, lease) as api:
                api.send(content_pb2, "Write", [message])

        def effect(model: Model) -> None:
            model.things["content", digest] = refs
            if labels.get("containerd.io/gc.root"):
                model.rooted.add(("content", digest))
            if lease:
                model.things["leases", lease].add(("content", digest))

        return call, effect, ("content", digest)

    def relabel(self, a: int, b: int, c: int) -> Any:
        digest = self._pick("content", a)
        if not digest:
            return None
        refs = self._refs(b)
        info = content_pb2.Info(digest=digest, labels=self._labels(refs))

        def effect(model: Model) -> None:
            model.things["content", digest] = refs
            model.rooted.discard(("content", digest))

        return lambda: self.api.call(content_pb2, "Update", info=info), effect, None

    def image(self, a: int, b: int, c: int) -> Any:
        name, digest = f"i{a % 4}", self._pick("content", b)
        if not digest:
            return None
        target = descriptor_pb2.Descriptor(media_type="x/y", digest=digest, size=1)
        method = "Update" if ("images", name) in self.model.things else "Create"

        def effect(model: Model) -> None:
            model.things["images", name] = {("content", digest)}

        message = images_pb2.Image(name=name, target=target)
        return lambda: self.api.call(images_pb2, method, image=message), effect, ("images", name)

    def lease(self, a: int, b: int, c: int) -> Any:
        id = f"l{next(_numbers)}"
        labels = {"containerd.io/gc.flat": "x"} if a % 3 == 0 else {}

        def effect(model: Model) -> None:
            model.things["leases", id] = set()
            if labels:
                model.flat.add(("leases", id))

        return lambda: self.api.call(leases_pb2, "Create", id=id, labels=labels), effect, ("leases", id)

    def add(self, a: int, b: int, c: int) -> Any:
        lease = self._pick("leases", a)
        kind = ("content", "snapshots", "images")[c % 3]
        name = self._pick(kind, b)
        if not lease or not name:
            return None
        resource = leases_pb2.Resource(id=name, type="snapshots/overlayfs" if kind == "snapshots" else kind)

        def effect(model: Model) -> None:
            model.things["leases", lease].add((kind, name))

        return lambda: self.api.call(leases_pb2, "AddResource", id=lease, resource=resource), effect, None

    def snapshot(self, a: int, b: int, c: int) -> Any:
        """An active one on a committed one, under a lease."""
        key = f"s{next(_numbers)}"
        lease = self._pick("leases", a, none=True)
        parent = self._pick("snapshots", b, none=True, among=lambda name: name not in self.model.active)

        def call() -> None:
            with Api(self.daemon.address, self.namespace, lease) as api:
                api.call(snapshots_pb2, "Prepare", snapshotter="overlayfs", key=key, parent=parent)

        def effect(model: Model) -> None:
            model.things["snapshots", key] = {("snapshots", parent)} if parent else set()
            model.active.add(key)
            if lease:
                model.things["leases", lease].add(("snapshots", key))

        return call, effect, ("snapshots", key)

    def commit(self, a: int, b: int, c: int) -> Any:
        """Under the name of the active one with a C: the lease that named the active one names nothing then."""
        key = self._pick("snapshots", a, among=lambda name: name in self.model.active)
        lease = self._pick("leases", b, none=True)
        if not key:
            return None

        def call() -> None:
            with Api(self.daemon.address, self.namespace, lease) as api:
                api.call(snapshots_pb2, "Commit", snapshotter="overlayfs", name=f"{key}-c", key=key)

        def effect(model: Model) -> None:
            model.things["snapshots", f"{key}-c"] = model.things.pop(("snapshots", key))
            model.active.discard(key)
            if lease:
                model.things["leases", lease].add(("snapshots", f"{key}-c"))

        return call, effect, ("snapshots", f"{key}-c")

    def container(self, a: int, b: int, c: int) -> Any:
        id = f"c{next(_numbers)}"
        key = self._pick("snapshots", a, among=lambda name: name in self.model.active)
        if not key:
            return None
        runtime = containers_pb2.Container.Runtime(name="io.containerd.runc.v2")
        spec = AnyMessage(type_url="types.containerd.io/opencontainers/runtime-spec/1/Spec", value=b"{}")
        message = containers_pb2.Container(id=id, runtime=runtime, spec=spec, snapshotter="overlayfs", snapshot_key=key)

        def effect(model: Model) -> None:
            model.things["containers", id] = {("snapshots", key)}

        return lambda: self.api.call(containers_pb2, "Create", container=message), effect, ("containers", id)

    def remove(self, a: int, b: int, c: int) -> Any:
        """A name of a client: an image, a container or a lease; what they protected stays until it is collected."""
        kind, module = (("images", images_pb2), ("containers", containers_pb2), ("leases", leases_pb2))[a % 3]
        name = self._pick(kind, b)
        if not name:
            return None
        fields = {"name": name} if kind == "images" else {"id": name}

        def effect(model: Model) -> None:
            del model.things[kind, name]

        return lambda: self.api.call(module, "Delete", **fields), effect, ("-", f"{kind} {name}")

    def kill(self, a: int, b: int, c: int) -> Any:
        """It dies within so many steps, whatever it is doing then."""
        self.daemon.within(1 + a % 12)
        return None

    def collect(self, a: int, b: int, c: int) -> Any:
        """Beside what comes next."""
        if self.collecting is None:
            self.collecting = threading.Thread(target=self._collect)
            self.collecting.start()
        return None

    def rescue(self, a: int, b: int, c: int) -> Any:
        """Garbage is named again while a collection is between its mark and its sweep."""
        garbage = sorted(set(self.model.things) - self.model.protected())
        blobs = [name for kind, name in garbage if kind == "content"]
        if not blobs:
            return None
        self.collect(a, b, c)
        digest = blobs[b % len(blobs)]
        target = descriptor_pb2.Descriptor(media_type="x/y", digest=digest, size=1)
        name = f"r{next(_numbers)}"

        def effect(model: Model) -> None:
            model.things["images", name] = {("content", digest)}

        message = images_pb2.Image(name=name, target=target)
        return lambda: self.api.call(images_pb2, "Create", image=message), effect, ("images", name)

    # Going on.

    def step(self, kind: str, a: int, b: int, c: int) -> None:
        planned = getattr(self, kind)(a, b, c)
        if planned is None:
            return
        call, effect, made = planned
        before, after = self.model, copy.deepcopy(self.model)
        effect(after)
        racing = self.collecting is not None
        failed = ""
        try:
            call()
        except grpc.RpcError as error:
            if self._died():
                there = self._there()
                assert before.protected() & after.protected() <= there
                self.model = after if self._took_place(there, made, before, after) else before
                self._forget(there)
                self._look_at_leases(before)
                return
            # What it was built upon may have been garbage that a collection took away this instant.
            if not racing or error.code() not in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION):
                raise
            after, failed = before, str(error)
        self.model = after
        if c % 3 == 0:
            self._join()
        there = self._there()
        must = after.protected()
        if racing:  # what was garbage when it was named may be gone, but not by halves
            spared = (after.whole() & before.things.keys() & there) - (before.protected() - before.whole())
            must = must & (before.protected() | {made})
            must |= {
                ref
                for thing in spared
                for ref in before.things[thing] & after.things[thing]
                if ref in before.things and ref in after.things
            }
        assert must <= there, f"after {kind} {must - there} is gone; {failed or 'it succeeded'}\n{self.daemon.tail()}"
        self._forget(there)

    def end(self) -> None:
        """A last collection with nobody else about: then there is what is protected, and nothing else."""
        self.daemon.order.unlink(missing_ok=True)
        self._join()
        if not self._died():
            self.daemon.restart()
            self._connect()
        self._forget(self._there())
        self._collect()
        assert self._there() == self.model.protected()
        settled(self.daemon, client=True)
        for kind, module in (("images", images_pb2), ("containers", containers_pb2), ("leases", leases_pb2)):
            for name in self.model.of(kind):
                self.api.call(module, "Delete", **({"name": name} if kind == "images" else {"id": name}))
        for _, digest in self.model.rooted & set(self.model.things):
            self.api.call(content_pb2, "Update", info=content_pb2.Info(digest=digest))
        self._collect()
        assert self._there() == set()
        settled(self.daemon, client=True)

    def _took_place(self, there: set[Thing], made: Thing | None, before: Model, after: Model) -> bool:
        """Of a call that was cut off: what it makes or removes tells; a change of labels is looked up."""
        if made is None or (made[0] == "images" and made in before.things):
            return self._refers(before, after)
        if made[0] == "-":
            kind, name = made[1].split()
            return (kind, name) not in there
        return made in there

    def _refers(self, before: Model, after: Model) -> bool:
        """Whether the one thing whose references differ has those after."""
        ((kind, name),) = [thing for thing in after.things if before.things.get(thing) != after.things[thing]] or [
            ("", "")
        ]
        if kind == "content":
            info = self.api.call(content_pb2, "Info", digest=name).info
            return self._labels(after.things[kind, name]) == dict(info.labels)
        if kind == "images":
            target = self.api.call(images_pb2, "Get", name=name).image.target.digest
            return {("content", target)} == after.things[kind, name]
        if kind == "leases":
            held = self.api.call(leases_pb2, "ListResources", id=name).resources
            return len(held) == len(after.things[kind, name])
        return True  # nothing differs

    def _look_at_leases(self, before: Model) -> None:
        """A call that was cut off may have made its object, and not come to name it in the lease."""
        for thing in set(self.model.things):
            if thing[0] == "leases":
                held = self.api.call(leases_pb2, "ListResources", id=thing[1]).resources
                named = {(each.type.partition("/")[0], each.id) for each in held}
                assert before.things.get(thing, set()) <= named
                self.model.things[thing] &= named

    def _forget(self, there: set[Thing]) -> None:
        """Garbage that a collection took."""
        for thing in set(self.model.things) - there:
            del self.model.things[thing]

    def _collect(self) -> None:
        with Api(self.daemon.address, self.namespace) as api:
            try:
                id = api.call(leases_pb2, "Create").lease.id
                api.call(leases_pb2, "Delete", id=id, sync=True)
            except grpc.RpcError as error:
                if not self.daemon.died(0.5):
                    self.failures.append(str(error))

    def _join(self) -> None:
        if self.collecting is not None:
            self.collecting.join(30)
            assert not self.collecting.is_alive()
            self.collecting = None
        assert self.failures == []

    def _died(self) -> bool:
        """Whether the daemon did; then there is another one."""
        if not self.daemon.died(0.3):
            return False
        self._join()
        self.daemon.again()
        self._connect()
        return True

    def _connect(self) -> None:
        """Anew: a channel that was refused once waits before it tries again."""
        self.api.__exit__(None, None, None)
        self.api = Api(self.daemon.address, self.namespace)

    def _there(self) -> set[Thing]:
        try:
            return self._listed()
        except grpc.RpcError:
            assert self._died(), "a list failed"
            return self._listed()

    def _listed(self) -> set[Thing]:
        content = {("content", each.digest) for page in self.api.call(content_pb2, "List") for each in page.info}
        pages = self.api.call(snapshots_pb2, "List", snapshotter="overlayfs")
        found = content | {("snapshots", each.name) for page in pages for each in page.info}
        found |= {("images", each.name) for each in self.api.call(images_pb2, "List").images}
        found |= {("containers", each.id) for each in self.api.call(containers_pb2, "List").containers}
        found |= {("leases", each.id) for each in self.api.call(leases_pb2, "List").leases if each.id.startswith("l")}
        return found

    def _pick(
        self, kind: str, number: int, none: bool = False, among: Callable[[str], bool] = lambda name: True
    ) -> str:
        names = [*([""] if none else []), *filter(among, self.model.of(kind))]
        return names[number % len(names)] if names else ""

    def _refs(self, number: int) -> set[Thing]:
        things = [thing for thing in self.model.things if thing[0] in ("content", "snapshots", "images")]
        return {things[(number // step) % len(things)] for step in (1, 7)[: number % 3]} if things else set()

    def _labels(self, refs: set[Thing]) -> dict[str, str]:
        words = {"content": "content", "snapshots": "snapshot.overlayfs", "images": "image"}
        return {f"{REF}{words[kind]}/{name[-8:]}": name for kind, name in refs}


KINDS = (
    "put",
    "put",
    "relabel",
    "image",
    "lease",
    "add",
    "snapshot",
    "commit",
    "container",
    "remove",
    "collect",
    "rescue",
    "rescue",
    "kill",
)
STEPS = st.lists(st.tuples(st.sampled_from(KINDS), *[st.integers(0, 1000)] * 3), min_size=10, max_size=40)


@pytest.fixture
def mortal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mortal]:
    monkeypatch.setenv("INTERMODAL_TEST_SLOW", "collector.sweep 0.03")  # much happens between mark and sweep
    daemon = Mortal(CONFIG)
    with daemon:
        yield daemon


def lives(daemon: Mortal, steps: list[tuple[str, int, int, int]]) -> None:
    if daemon.died():  # in an example that failed
        daemon.again()
    history = History(daemon)
    for kind, a, b, c in steps:
        history.step(kind, a, b, c)
    history.end()


def options(examples: int, **keywords: Any) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        phases=[Phase.generate],  # to shrink takes minutes
        **keywords,
    )


@pytest.mark.slow
@options(12, derandomize=True)
@given(STEPS)
def test_some_histories(mortal: Mortal, steps: list[tuple[str, int, int, int]]) -> None:
    lives(mortal, steps)


@pytest.mark.soak
@seed(int(os.environ.get("SOAK_SEED", "1")))
@options(120)
@given(STEPS)
def test_many_histories(mortal: Mortal, steps: list[tuple[str, int, int, int]]) -> None:
    lives(mortal, steps)
