"""The snapshotter keeps its contract, and its options do what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
from intermodal_core.testing.contexts import context_of
from intermodal_core.testing.snapshotters import Factory, SnapshotterKit

from intermodal_sample.plugin import Config, plugin
from intermodal_sample.snapshotter import SampleSnapshotter


class TestContract(SnapshotterKit):
    capabilities = frozenset(plugin.capabilities)

    @pytest.fixture
    def factory(self) -> Factory:
        return lambda root: SampleSnapshotter(root, sync_remove=True)


def test_made_of_its_options(tmp_path: Path) -> None:
    snapshotter = plugin.factory(context_of("snapshotters", "sample", Config(sync=False), tmp_path))
    assert not snapshotter.sync
    assert snapshotter.root == tmp_path / "root"
    snapshotter.close()
