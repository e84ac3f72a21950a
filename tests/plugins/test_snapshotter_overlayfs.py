"""overlayfs keeps the snapshotter contract, on a disk and in memory; and what is its own."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from intermodal_core.contracts.common import Mount
from intermodal_core.contracts.kinds import SNAPSHOTTERS
from intermodal_core.errors import FailedPrecondition, InvalidArgument, PluginSkipped
from intermodal_core.testing.contexts import context_of
from intermodal_core.testing.isolation import IsolatedKit
from intermodal_core.testing.snapshotters import Factory, SnapshotterKit
from intermodal_overlayfs.plugin import Config, plugin
from intermodal_overlayfs.snapshotter import OverlaySnapshotter, probe
from intermodal_snapshots.mounts import filesystem_of, mount_all, mounts_below, temp_mount, unmount_all


class TestOnDisk(SnapshotterKit):
    capabilities = frozenset(plugin.capabilities)

    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        if problem := probe(tmp_path):
            pytest.skip(f"overlay does not work on {filesystem_of(tmp_path)} here: {problem}")
        return tmp_path

    @pytest.fixture
    def factory(self) -> Factory:
        return OverlaySnapshotter


class TestInMemory(SnapshotterKit):
    capabilities = frozenset(plugin.capabilities)

    @pytest.fixture
    def place(self, tmp_path: Path) -> Iterator[Path]:
        mount_all([Mount("tmpfs", "tmpfs", ("size=512m",))], tmp_path)
        yield tmp_path
        unmount_all(tmp_path)

    @pytest.fixture
    def factory(self) -> Factory:
        return lambda root: OverlaySnapshotter(root, sync_remove=True)


@pytest.mark.slow
class TestIsolated(IsolatedKit, TestInMemory):
    @pytest.fixture
    def factory(self, isolated: Any) -> Factory:
        return isolated("intermodal_overlayfs.plugin:plugin", SNAPSHOTTERS, sync_remove=True)  # type: ignore[no-any-return]


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs, on which overlay works wherever the tests run."""
    mount_all([Mount("tmpfs", "tmpfs", ("size=64m",))], tmp_path)
    yield tmp_path
    unmount_all(tmp_path)
    assert mounts_below(tmp_path) == []


def test_plugin_makes_one_and_leaves_no_probe(memory: Path) -> None:
    snapshotter = plugin.factory(
        context_of("snapshotters", "overlayfs", Config(mount_options=("metacopy=off",)), memory)
    )
    assert sorted(os.listdir(memory / "root")) == ["records.db", "records.db-shm", "records.db-wal", "snapshots"]
    snapshotter.prepare("base")
    snapshotter.commit("base layer", "base")
    (mount,) = snapshotter.prepare("run", "base layer")
    assert "metacopy=off" in mount.options
    with temp_mount([mount], memory):
        pass
    snapshotter.close()


def test_plugin_is_skipped_where_overlay_cannot_be(memory: Path) -> None:
    for name in ("lower", "upper", "work", "merged"):
        (memory / name).mkdir()
    options = (f"lowerdir={memory}/lower", f"upperdir={memory}/upper", f"workdir={memory}/work")
    mount_all([Mount("overlay", "overlay", options)], memory / "merged")
    with pytest.raises(PluginSkipped, match="overlay does not work on a filesystem of type overlay") as caught:
        plugin.factory(context_of("snapshotters", "overlayfs", Config(), memory / "merged"))
    assert "native" in caught.value.remedy
    assert os.listdir(memory / "merged/root") == []


def test_mounts_have_the_forms_that_clients_know(memory: Path) -> None:
    snapshotter = OverlaySnapshotter(memory / "root")
    layers = memory / "root/snapshots"
    assert snapshotter.prepare("a") == [Mount("bind", f"{layers}/1/fs", ("rw", "rbind"))]
    snapshotter.commit("A", "a")
    assert snapshotter.view("look", "A") == [Mount("bind", f"{layers}/1/fs", ("ro", "rbind"))]
    (mount,) = snapshotter.prepare("b", "A")
    assert (mount.type, mount.source) == ("overlay", "overlay")
    assert mount.options[-3:] == (f"workdir={layers}/3/work", f"upperdir={layers}/3/fs", f"lowerdir={layers}/1/fs")
    if Path("/sys/module/overlay/parameters/index").exists():
        assert "index=off" in mount.options
    snapshotter.commit("B", "b")
    (mount,) = snapshotter.view("look at B", "B")
    assert mount.options[-1] == f"lowerdir={layers}/3/fs:{layers}/1/fs"
    snapshotter.close()


def test_labels_map_the_owners_of_lower_layers(memory: Path) -> None:
    snapshotter = OverlaySnapshotter(memory / "root")
    snapshotter.prepare("base")
    snapshotter.commit("layer", "base")
    labels = {
        "containerd.io/snapshot/uidmapping": "0:100000:65536",
        "containerd.io/snapshot/gidmapping": "0:200000:65536",
    }
    made = snapshotter.prepare("run", "layer", labels)
    assert made == snapshotter.mounts("run")
    assert made[0].options[-2:] == ("uidmap=0:100000:65536", "gidmap=0:200000:65536")
    upper = (memory / "root/snapshots/2/fs").stat()
    assert (upper.st_uid, upper.st_gid) == (100000, 200000)
    assert snapshotter.view("look", "layer", labels)[0].options[-1] == "gidmap=0:200000:65536"
    with pytest.raises(InvalidArgument, match="no mapping of ids"):
        snapshotter.prepare("wrong", "layer", {"containerd.io/snapshot/uidmapping": "0:100000:65536"})
    assert [info.key for info in snapshotter.walk() if info.key == "wrong"] == []
    snapshotter.close()


def test_hundreds_of_layers_are_mountable(memory: Path) -> None:
    snapshotter = OverlaySnapshotter(memory / "root")
    parent = ""
    for number in range(200):
        with temp_mount(snapshotter.prepare("work"), memory) as top:
            (top / f"file-{number}").write_text(str(number))
        snapshotter.commit(f"layer-{number}", "work", parent=parent)
        parent = f"layer-{number}"
    mounts = snapshotter.prepare("run", parent)
    assert sum(map(len, mounts[0].options)) > 4096
    here = os.getcwd()
    with temp_mount(mounts, memory) as top:
        assert len(os.listdir(top)) == 200
        assert (top / "file-0").read_text() == "0"
    assert os.getcwd() == here
    snapshotter.close()


def test_a_root_that_overlayfs_would_misread_is_refused(memory: Path) -> None:
    for name in ("a:b", "a,b", "a\\b"):
        with pytest.raises(InvalidArgument, match="comma, colon or backslash"):
            OverlaySnapshotter(memory / name)


def test_a_second_process_is_refused(memory: Path) -> None:
    first = OverlaySnapshotter(memory / "root")
    with pytest.raises(FailedPrecondition, match="Another process"):
        OverlaySnapshotter(memory / "root")
    first.close()
    OverlaySnapshotter(memory / "root").close()
