"""native keeps the snapshotter contract, on a disk and in memory; and what its copies keep."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from intermodal_core.contracts.common import Mount
from intermodal_core.contracts.kinds import SNAPSHOTTERS
from intermodal_core.testing.contexts import context_of
from intermodal_core.testing.isolation import IsolatedKit
from intermodal_core.testing.snapshotters import Factory, SnapshotterKit
from intermodal_native.plugin import Config, plugin
from intermodal_native.snapshotter import NativeSnapshotter
from intermodal_snapshots.mounts import mount_all, unmount_all


class TestOnDisk(SnapshotterKit):
    capabilities = frozenset(plugin.capabilities)

    @pytest.fixture
    def factory(self) -> Factory:
        return NativeSnapshotter


class TestInMemory(SnapshotterKit):
    capabilities = frozenset(plugin.capabilities)

    @pytest.fixture
    def place(self, tmp_path: Path) -> Iterator[Path]:
        mount_all([Mount("tmpfs", "tmpfs", ("size=512m",))], tmp_path)
        yield tmp_path
        unmount_all(tmp_path)

    @pytest.fixture
    def factory(self) -> Factory:
        return lambda root: NativeSnapshotter(root, sync_remove=True)


class TestIsolated(IsolatedKit, SnapshotterKit):
    capabilities = frozenset(plugin.capabilities)

    @pytest.fixture
    def factory(self, isolated: Any) -> Factory:
        return isolated("intermodal_native.plugin:plugin", SNAPSHOTTERS)  # type: ignore[no-any-return]


def test_plugin_says_how_it_copies(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        snapshotter = plugin.factory(context_of("snapshotters", "native", Config(), tmp_path))
    assert ("reflinks)" if snapshotter.reflink else "full copies") in caplog.text
    snapshotter.close()
    assert sorted(os.listdir(tmp_path / "root")) == ["records.db", "snapshots"]
