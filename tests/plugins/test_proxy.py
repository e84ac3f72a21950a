"""What the kits demand holds through a socket, too: backends served by `services.serve`, used by `[proxy_plugins]`."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from intermodal_core.errors import DeadlineExceeded, NotFound, OutOfRange, Unavailable, Unimplemented
from intermodal_core.testing.content import ContentStoreKit, digest_of
from intermodal_core.testing.content import Factory as ContentFactory
from intermodal_core.testing.snapshotters import Factory, SnapshotterKit
from intermodal_local.store import Store
from intermodal_native.snapshotter import NativeSnapshotter
from intermodal_proxy.content import ProxyContent
from intermodal_proxy.snapshotter import ProxySnapshotter
from intermodal_serve.unscoped import UnscopedContent, UnscopedSnapshots
from intermodal_wire.content import Content
from intermodal_wire.snapshots import Snapshots

from tests.harness.serving import Served, serving

_number = itertools.count()


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as place:
        yield place


def socket_of(tmp_path: Path) -> Path:
    return tmp_path / f"{next(_number)}.sock"


class TestSnapshotter(SnapshotterKit):
    forks = False

    @pytest.fixture
    def factory(self, served: Served, tmp_path: Path) -> Factory:
        def make(root: Path) -> Any:
            backend = NativeSnapshotter(root, sync_remove=True)
            address = socket_of(tmp_path)
            served.serve(lambda guard: Snapshots(UnscopedSnapshots(guard)), backend, address)  # type: ignore[arg-type]
            proxy = ProxySnapshotter(str(address), "native", timeout=60)
            close = proxy.close

            def close_both() -> None:  # the kit opens the same directory again
                close()
                backend.close()

            proxy.close = close_both  # type: ignore[method-assign]
            return proxy

        return make

    def test_s15_close_lets_go(self, factory: Factory, root: Path, layer: Any) -> None:
        """Of the plugin there is nothing to let go of but a connection, and grpcio keeps its threads."""
        snapshotter = factory(root)
        layer(snapshotter, "base")
        snapshotter.close()
        snapshotter.close()
        assert [info.key for info in factory(root).walk()] == ["base"]


class TestContent(ContentStoreKit):
    forks = False

    def test_c10_truncate(self, store: Any) -> None:
        """The service cuts to nothing or not at all."""
        store.begin("r")
        store.append("r", b"0123456789")
        store.truncate("r", 10)
        with pytest.raises(Unimplemented):
            store.truncate("r", 5)
        with pytest.raises(OutOfRange):
            store.truncate("r", 11)
        store.truncate("r", 0)
        assert store.append("r", b"other", 0) == 5
        assert store.commit("r").digest == digest_of(b"other")
        with pytest.raises(NotFound):
            store.truncate("r", 0)

    @pytest.fixture
    def factory(self, served: Served, tmp_path: Path) -> ContentFactory:
        def make(root: Path) -> Any:
            address = socket_of(tmp_path)
            served.serve(lambda guard: Content(UnscopedContent(guard)), Store(root), address)  # type: ignore[arg-type]
            store = ProxyContent(str(address), tmp_path / f"{address.name}.incoming", timeout=60)

            def close_all() -> None:
                for status in store.statuses():
                    store.close(status.ref)

            served.at_the_end(close_all)
            return store

        return make


def test_a_missing_socket_costs_no_time(tmp_path: Path) -> None:
    proxy = ProxySnapshotter(str(tmp_path / "none.sock"), "x", timeout=60)
    began = time.monotonic()
    for _ in range(50):
        with pytest.raises(Unavailable, match=r"connecting to .*none\.sock"):
            proxy.stat("a")
    assert time.monotonic() - began < 2


def test_a_plugin_that_comes_back_is_used_at_once(tmp_path: Path) -> None:
    address = tmp_path / "s.sock"
    backend = NativeSnapshotter(tmp_path / "root")
    proxy = ProxySnapshotter(str(address), "x", timeout=60)
    for round in range(2):
        with serving() as served:
            served.serve(lambda guard: Snapshots(UnscopedSnapshots(guard)), backend, address)  # type: ignore[arg-type]
            proxy.prepare(f"key-{round}")
        began = time.monotonic()
        with pytest.raises(Unavailable):
            proxy.stat("key-0")
        with pytest.raises(Unavailable):
            proxy.stat("key-0")
        assert time.monotonic() - began < 2
    backend.close()


def test_one_that_never_answers_ends_by_the_deadline(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s.sock"))
        listening.listen()
        proxy = ProxySnapshotter(str(tmp_path / "s.sock"), "x", timeout=0.5)
        with pytest.raises((DeadlineExceeded, Unavailable)):
            proxy.remove("a")
        proxy.close()
