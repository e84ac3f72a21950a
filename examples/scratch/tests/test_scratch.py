"""Both plugins keep their contracts, and do what they are for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from intermodal_core.contracts.hooks import ContainerInfo
from intermodal_core.errors import InvalidArgument, ResourceExhausted
from intermodal_core.testing.hooks import HooksKit
from intermodal_core.testing.snapshotters import Factory, SnapshotterKit

from scratch_plugins.hooks import ScratchHooks
from scratch_plugins.plugin import in_bytes
from scratch_plugins.snapshotter import ScratchSnapshotter


class TestSnapshotter(SnapshotterKit):
    @pytest.fixture
    def factory(self) -> Factory:
        return lambda root: ScratchSnapshotter(root, sync_remove=True)

    def test_s08_nothing_is_committed_over_the_limit(self, root: Path, mounted: Any) -> None:
        snapshotter = ScratchSnapshotter(root, limit=100_000)
        with mounted(snapshotter.prepare("work")) as top:
            (top / "large").write_bytes(b"x" * 200_000)
        with pytest.raises(ResourceExhausted, match="the limit is 100000"):
            snapshotter.commit("layer", "work")
        assert snapshotter.stat("work").kind == "active"
        snapshotter.close()


class TestHooks(HooksKit):
    @pytest.fixture
    def factory(self) -> Any:
        return lambda: ScratchHooks("overlayfs", 4096)


def test_a_container_is_told() -> None:
    hooks = ScratchHooks("scratch", 4096)
    container = ContainerInfo("default", "web", snapshotter="scratch")
    assert hooks.adjust_spec({"process": {"env": []}}, container) == {"process": {"env": ["SCRATCH_LIMIT=4096"]}}
    assert hooks.adjust_spec({"process": {}}, ContainerInfo("default", "web", snapshotter="native")) is None


@pytest.mark.parametrize(("needs", "error"), [("5000", ResourceExhausted), ("much", InvalidArgument)])
def test_who_needs_too_much_is_refused(needs: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        ScratchHooks("scratch", 4096).before_create(
            ContainerInfo("default", "web", labels={"scratch/needs": needs}, snapshotter="scratch")
        )


def test_options_of_version_1() -> None:
    assert in_bytes({"limit_mb": 3}) == {"limit": 3 << 20}
    assert in_bytes({"limit": 7}) == {"limit": 7}
