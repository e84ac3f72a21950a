"""The content store `local`: the kit, and what its files must survive."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from intermodal_core.contracts.kinds import CONTENT
from intermodal_core.errors import InvalidArgument, NotFound, ResourceExhausted
from intermodal_core.plugin import Context, Plugin
from intermodal_core.testing.content import ContentStoreKit, Factory
from intermodal_core.testing.isolation import IsolatedKit
from intermodal_local.store import Store

from tests.harness.crash import every_kill
from tests.harness.disk import fill, small_disk
from tests.plugins import content_child as child


class TestLocal(ContentStoreKit):
    @pytest.fixture
    def factory(self) -> Factory:
        return Store


class TestLocalIsolated(IsolatedKit, ContentStoreKit):
    @pytest.fixture
    def factory(self, isolated: Any) -> Factory:
        return isolated("intermodal_local.plugin:plugin", CONTENT)  # type: ignore[no-any-return]


def test_c1_killed_at_every_step(tmp_path: Path) -> None:
    """[C1], [C2] Whatever was promised before the kill is there, what is there is right, nothing half-made stays."""
    steps = set()
    for run in every_kill("tests.plugins.content_child:main", lambda k: [str(tmp_path / str(k))]):
        root = tmp_path / str(run.k)
        store = Store(root)
        found = {blob.digest for blob in store.walk()}
        promised = run.output.split()
        deleted = {child.digest(child.DOOMED)}
        assert set(promised) - {"deleted"} <= found | deleted, run
        if run.completed:
            assert promised[-1] == "deleted"
            assert not found & deleted
        for blob in store.walk():
            data = (root / "blobs" / "sha256" / blob.digest[7:]).read_bytes()
            assert (child.digest(data), len(data)) == (blob.digest, blob.size), run
        for status in store.statuses():
            again = store.begin(status.ref)
            assert again.offset == status.offset
            store.abort(status.ref)
        assert list((root / "ingests").iterdir()) == list((root / "incoming").iterdir()) == [], run
        steps.add(run.step)
    assert {"content.publish", "content.ingest-info", "content.delete", "content.truncate", "content.sync"} <= steps


def test_c2_synced_before_it_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """[C2] The bytes are synced before the name exists, and the directory of names before commit returns."""
    store = Store(tmp_path)
    blobs = tmp_path / "blobs" / "sha256"
    synced: list[tuple[str, int]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), len(list(blobs.iterdir()))))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    store.begin("r")
    store.append("r", child.FIRST)
    data = os.path.realpath(next((tmp_path / "ingests").iterdir()) / "data")
    store.commit("r")
    assert synced == [(data, 0), (os.path.realpath(blobs), 1)]
    synced.clear()
    path = Path(store.ingest_path_for(0)) / "f"
    path.write_bytes(child.SECOND)
    store.adopt(str(path), child.digest(child.SECOND), len(child.SECOND))
    assert synced == [(os.path.realpath(path), 1), (os.path.realpath(blobs), 2)]


def test_c9_full_disk(tmp_path: Path) -> None:
    """[C9] The ingest keeps what it had and goes on once there is room; nothing is lost."""
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        store = Store(disk / "store")
        store.begin("r")
        first = os.urandom(200_000)
        store.append("r", first)
        filler = fill(disk)
        with pytest.raises(ResourceExhausted):
            store.append("r", os.urandom(300_000))
        assert store.status("r").offset == len(first)
        with pytest.raises(ResourceExhausted):
            store.begin("s")
        assert [status.ref for status in store.statuses()] == ["r"]
        assert len(list((disk / "store" / "ingests").iterdir())) == 1
        filler.unlink()
        store.append("r", b"rest", len(first))
        assert store.commit("r").digest == child.digest(first + b"rest")
        store.begin("s")
        store.abort("s")


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    """Whatever ends an ingest closes its file."""
    store = Store(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    ends: list[Callable[[str], object]] = [store.close, store.abort, store.commit]
    for n, end in enumerate(ends):
        store.begin(f"r{n}")
        store.append(f"r{n}", b"data")
        end(f"r{n}")
    with pytest.raises(NotFound):
        store.open(child.digest(b"other"))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_ref_is_never_a_path(tmp_path: Path) -> None:
    """Refs are any text."""
    store = Store(tmp_path / "store")
    for ref in ("../../escape", "/etc/passwd", "a\0b", "\n", "x" * 10_000):
        store.begin(ref)
        store.append(ref, b"data")
        assert store.status(ref).ref == ref
        store.abort(ref)
    with pytest.raises(InvalidArgument):
        store.begin("\udcff")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize("where", ["root", "elsewhere"])
def test_the_plugin(tmp_path: Path, where: str) -> None:
    """Found by its entry point, made by its factory: in the instance's directory, or where the config says."""
    (point,) = entry_points(group="intermodal.content", name="local")
    plugin: Plugin[Any] = point.load()
    config = plugin.config() if where == "root" else plugin.config(path=str(tmp_path / where))
    nothing: Any = None
    context = Context(
        kind="content",
        name="local",
        config=config,
        root=tmp_path / "root",
        state=tmp_path / "state",
        address="",
        log=logging.getLogger("local"),
        events=nothing,
        spawner=nothing,
        registry=nothing,
    )
    store = plugin.factory(context)
    store.begin("r")
    store.append("r", child.FIRST)
    store.commit("r")
    place = tmp_path / where
    assert (place / "blobs" / "sha256" / child.digest(child.FIRST)[7:]).read_bytes() == child.FIRST
