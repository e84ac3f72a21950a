"""What the tests of the snapshotters' kit stand on: the fixtures, of which an author defines `factory`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from intermodal_snapshots.mounts import mounts_below, temp_mount

from intermodal_core.contracts.snapshotters import Snapshotter
from intermodal_core.testing.kit import Kit
from intermodal_core.testing.trees import tree_of

__all__ = ["Factory", "SnapshotterFixtures", "directories_below", "state_of"]

Factory = Callable[[Path], Snapshotter]


def directories_below(top: Path) -> int:
    """How many directories there are."""
    return sum(len(directories) for _, directories, _ in os.walk(top))


def state_of(snapshotter: Snapshotter) -> dict[str, tuple[str, str, tuple[tuple[str, str], ...]]]:
    """All that calls change of the records: kind, parent and labels by key."""
    return {info.key: (info.kind, info.parent, tuple(sorted(info.labels.items()))) for info in snapshotter.walk()}


class SnapshotterFixtures(Kit):
    """A snapshotter below a directory of its own, mounts that are undone, layers and how they look."""

    contracts = (Snapshotter,)
    instances = ("snapshotter",)

    # -- what a subclass may say --------------------------------------------------------------------------------------

    @pytest.fixture
    def factory(self) -> Factory:
        """Opens the snapshotter of a root directory, which may be new or have been used before."""
        raise NotImplementedError("define the fixture `factory`")

    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        """A directory on the filesystem to test on."""
        return tmp_path

    def damage(self, root: Path, marker: str) -> None:
        """Lose the files of the snapshot that holds a file named `marker`."""
        for directory, _, files in os.walk(root):
            if marker in files:
                shutil.rmtree(Path(directory).parent)
                return
        raise AssertionError(f"no file {marker} below {root}")

    # -- helpers ------------------------------------------------------------------------------------------------------

    @pytest.fixture
    def root(self, place: Path) -> Iterator[Path]:
        """The snapshotter's directory; in the end nothing may be mounted on or in it, or where the tests mount."""
        root = place / "root"
        yield root
        assert mounts_below(root) == []
        assert mounts_below(place / "mounts") == []

    @pytest.fixture
    def snapshotter(self, factory: Factory, root: Path) -> Iterator[Snapshotter]:
        """An empty one."""
        snapshotter = factory(root)
        yield snapshotter
        snapshotter.close()

    @pytest.fixture
    def mounted(self, place: Path) -> Callable[..., Any]:
        """Mounts a list of mounts for a `with` block."""
        (place / "mounts").mkdir(exist_ok=True)
        return lambda mounts: temp_mount(mounts, place / "mounts")

    @pytest.fixture
    def layer(self, mounted: Callable[..., Any]) -> Callable[..., None]:
        """Commits a snapshot on top of another: `layer(snapshotter, name, parent, write)`."""

        def commit(
            snapshotter: Snapshotter, name: str, parent: str = "", write: Callable[[Path], object] = lambda _: None
        ) -> None:
            with mounted(snapshotter.prepare(f"making {name}", parent)) as top:
                write(top)
            snapshotter.commit(name, f"making {name}")

        return commit

    @pytest.fixture
    def tree(self, mounted: Callable[..., Any]) -> Callable[[Snapshotter, str], dict[str, tuple[Any, ...]]]:
        """What a view of a committed snapshot shows."""

        def look(snapshotter: Snapshotter, name: str) -> dict[str, tuple[Any, ...]]:
            with mounted(snapshotter.view("looking", name)) as top:
                found = tree_of(top)
            snapshotter.remove("looking")
            return found

        return look
